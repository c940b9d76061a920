"""Rows whose gradient names no target: one pass more, at wide logits, tells which penalty it is that they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from alignment import Finding, Supervision
from alignment.findings import finding
from alignment.penalties import Penalty
from alignment.recovery import Form
from alignment.rules import RULES

from ..errors import UsageError
from ..host.sharded import runs_together
from ..models.adapter import Batch, View
from .one_pass import LossError, Pass, run_penalties, run_turned
from .watched import Watched

__all__ = ["Penalised", "told_apart"]

#: Numbers whose relative spacing is more than this are no full precision.
COARSE = 1e-6
#: What is said of rows that have nothing but a penalty.
NAMES = {
    Penalty.UNIFORM: "smoothing's uniform part",
    Penalty.SQUARES: "a penalty on the squares of the logits",
    Penalty.ENTROPY: "an entropy bonus",
    Penalty.ALIKE: "a penalty that treats all tokens alike",
}


@dataclass(frozen=True)
class Penalised:
    """Per stream, (R,) int64: the :class:`Penalty` that is all there is of a row's gradient; empty: no row has one."""

    kinds: tuple[Tensor, ...] = ()

    def without(self, actual: Sequence[Supervision]) -> tuple[Supervision, ...]:
        """The supervisions, such rows untrained: what has only a penalty has no target."""
        if not self.kinds:
            return tuple(actual)
        pairs = zip(actual, self.kinds, strict=True)
        return tuple(replace(one, soft=one.soft & (kind == int(Penalty.NONE))) for one, kind in pairs)

    def findings(self, expected: Sequence[Supervision], told: Sequence[Finding]) -> list[Finding]:
        """LA202 where smoothing reaches rows that have labels beside them, and none of their own.

        ``told`` was found before: a stream whose every row is at a wrong place is told of that alone.
        """
        absorbing = {one.stream for one in told if "LA202" in RULES[one.code].absorbs}
        found = []
        for one, kind in zip(expected, self.kinds, strict=bool(self.kinds)):
            rows = (kind == int(Penalty.UNIFORM)) & ~one.trained
            count, name = int(rows.sum()), one.stream.name
            if count and one.count and name not in absorbing:
                message = (
                    f"label smoothing reaches {count} rows of {name} that have no target: its uniform part is added up "
                    "over ignored rows too, and flattens what the model says there"
                )
                found.append(finding("LA202", name, message, fix=FIX, count=count))
        return found

    def notes(self) -> list[str]:
        """What else is stated."""
        return [
            f"{int((mine == int(kind)).sum())} rows have a gradient that is {told} and nothing else: no target"
            for mine in self.kinds
            for kind, told in NAMES.items()
            if bool((mine == int(kind)).any())
        ]


FIX = (
    "Take the uniform part over rows with a label alone, as `F.cross_entropy(..., label_smoothing=)` does: multiply "
    "`-log_probs.mean(-1)` by the same mask as the loss of the targets."
)


def told_apart(
    watched: Watched,
    batch: Batch,
    view: View,
    first: Pass,
    actual: Sequence[Supervision],
    expected: Sequence[Supervision],
) -> Penalised:
    """Which rows without a target have a penalty and nothing else; nothing is run where there are none.

    In half precision a teacher that knows little looks like a penalty: there only rows that expect nothing have one.
    """
    pairs = zip(first.readings, actual, strict=True)
    without = [one.soft | (read.form == int(Form.REGULARISER)).to(one.soft.device) for read, one in pairs]
    if watched.options.values != "noise" or not any(bool(rows.any()) for rows in without):
        return Penalised()
    if runs_together(watched.model):
        return Penalised()
    try:
        kinds = [
            kind.masked_fill(~rows, 0) for kind, rows in zip(run_penalties(watched, batch, view), without, strict=True)
        ]
        if any(bool((rows & (kind == 0)).any()) for kind, rows in zip(kinds, without, strict=True)):
            alike = run_turned(watched, batch, view, first.rounding)
            if first.rounding > COARSE:
                alike = [one & ~wanted.trained for one, wanted in zip(alike, expected, strict=True)]
            kinds = [
                kind.masked_fill(rows & one & (kind == 0), int(Penalty.ALIKE))
                for kind, rows, one in zip(kinds, without, alike, strict=True)
            ]
    except (LossError, UsageError):
        return Penalised()
    return Penalised(tuple(kinds))
