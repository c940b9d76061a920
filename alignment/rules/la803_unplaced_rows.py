"""LA803: Trained rows belong to no position of the batch."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA803",
    "unplaced-rows",
    "blind",
    summary="Trained rows belong to no position of the batch.",
    silent="Rows that the model puts in by itself have no input token to compare their target with.",
    fix="Name the ids that the head's rows stand for with `--streams FILE`, or accept it by name: "
    "`--ignore LA803:text`.",
    note="Virtual tokens that PEFT puts in front are none.",
)
