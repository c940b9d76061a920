"""LA104: Every row of a stream is trained at one offset that is not 0, +1 or +2."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA104",
    "wrong-offset",
    "error",
    summary="Every row of a stream is trained at one offset that is not 0, +1 or +2.",
    silent="Shapes agree and the loss is finite at any offset; nothing in a loss curve names the offset.",
    fix="Find the slice, pad or prefix that moves labels against logits and remove it. To see what each "
    "row is trained on, run `loss-align explain`.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304"),
)
