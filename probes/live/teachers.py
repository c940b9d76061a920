"""Soft targets of a watched run: logits that were made without gradients beside it, and whose rows explain its own.

A script's loss cannot be run again. What it makes of a teacher's row is told by the gradient itself, at a few tokens.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignment.sketch import Sketch
from alignment.taught import LEAST_TOKENS, columns, log_chances, taught_by

from ..checks.causality import settle_soft, soft_offsets
from ..models.declared_heads import field_of
from ..records.choice import Keep
from ..records.report import Report
from ..replay.soft import soft_finding
from .forwards import Forward
from .head_calls import Call
from .placing import streams_of

__all__ = ["Lesson", "Teachers", "add_soft"]

#: How many makers of logits are remembered: heads, and models that cap or scale what these give.
MOST = 4
#: How far behind and ahead of a row its teacher's may stand.
FAR = 2
#: How many rows of a call are looked at, and how many must agree, as what share of all that tell.
LOOKED = 32
AGREED = 8
MOST_ALIKE = 0.9
SHOWN = "a row's gradient is made of its own logits and of that row's"


@dataclass(frozen=True)
class _Made:
    """Logits that nobody trains: (R, c) of them, rows of one sequence, and the integers that were read on the way."""

    chances: Tensor
    vocab: int
    length: int
    read: tuple[Tensor, ...]


class Teachers:
    """Logits of other modules than the watched, or of the watched without gradients, as they come."""

    def __init__(self) -> None:
        self.widths: set[int] = set()
        self._made: deque[_Made] = deque(maxlen=MOST)
        self._read: deque[Tensor] = deque(maxlen=MOST)

    def saw(self, _: nn.Module, args: tuple[Any, ...], __: Mapping[str, Any], output: Any) -> None:
        """A module has been called."""
        logits = field_of(output, "logits")
        if type(logits) is not Tensor or logits.requires_grad or not logits.is_floating_point():
            return
        self._read += [one for one in args[:1] if type(one) is Tensor and not one.is_floating_point()]
        if logits.dim() > 1 and logits.shape[-1] in self.widths and logits.shape[-2] > 2 * FAR:
            rows = logits.detach().reshape(-1, logits.shape[-1])
            read = tuple(one.detach().reshape(-1).cpu() for one in self._read if one.numel() == len(rows))
            read = read or (self._made[-1].read if self._made else ())  # the model of a head that has read them
            self._made.append(_Made(log_chances(rows, rows.logsumexp(-1)), *logits.shape[-1:-3:-1], read))
            self._read.clear()

    def lesson(self, forward: Forward, call: Call, logits: Tensor, kept: Sketch) -> Lesson | None:
        """What (R, V) logits of a call may be taught; None where nothing can tell."""
        if call.head.books > 1 or call.rows is None or kept.vocab < LEAST_TOKENS:
            return None
        self.widths.add(kept.vocab)
        rows = logits.detach().reshape(-1, kept.vocab)
        total = rows.gather(1, kept.token[:, :1])[:, 0].float() - kept.log_prob[:, 0]
        return Lesson(self._made, forward.ids_of(call.head), call.rows, log_chances(rows, total))


@dataclass(frozen=True)
class Lesson:
    """Rows of a call that may have soft targets.

    Attributes:
        made: logits that a teacher may have given, up to the time when it is asked.
        ids: (R,) that were received.
        rows: (r,) received row of each row of the call.
        chances: (r, c) of the call.
    """

    made: Sequence[_Made]
    ids: Tensor
    rows: Tensor
    chances: Tensor

    def offsets(self, gradient: Tensor) -> Counter[int]:
        """How many rows of an (r, V) gradient have their soft target at which offset."""
        few = gradient[:, columns(gradient.shape[-1]).to(gradient.device)]
        mine = [one for one in self.made if one.vocab == gradient.shape[-1]]
        found = [self._beside(one, few) for one in mine if any(torch.equal(ids, self.ids) for ids in one.read)]
        return max(found, key=lambda one: one.total(), default=Counter())

    def _beside(self, made: _Made, gradient: Tensor) -> Counter[int]:
        at = self.rows.to(gradient.device)
        inside = (at % made.length >= FAR) & (at % made.length < made.length - FAR)
        rows = torch.nonzero(inside & gradient.isfinite().all(-1) & (gradient != 0).any(-1)).reshape(-1)
        rows = rows[:: -(-len(rows) // LOOKED) or 1]
        candidates = [made.chances[at[rows] + distance] for distance in range(-FAR, FAR + 1)]
        told = taught_by(gradient[rows], self.chances[rows], candidates)
        return Counter((told[told >= 0] - FAR + 1).tolist())


def add_soft(report: Report, forwards: Sequence[Forward], trained: Mapping[str, int], keep: Keep) -> None:
    """LA102, LA103 or LA104 of streams whose soft targets stand at another offset; a note where they stand right.

    ``trained`` says how many rows of each stream have a gradient.
    """
    offsets: dict[tuple[str, int], Counter[int]] = {}
    for forward in forwards:
        for call in forward.calls:
            for stream, ahead in streams_of(forward, call) if call.soft else ():
                offsets.setdefault((stream, ahead), Counter()).update(call.soft)
    found = []
    for (name, ahead), seen in offsets.items():
        (offset, count), *_ = seen.most_common(1)
        if count < max(AGREED, MOST_ALIKE * seen.total()):
            continue
        if offset == ahead:
            report.notes.append(f"{name}: soft targets stand at offset {offset:+d} ({count} rows, by their teacher's)")
        else:
            found.append(soft_finding(name, offset - ahead + 1, trained.get(name, count), SHOWN))
    found = [one for one in soft_offsets(found, report.findings) if keep(one)]
    settle_soft(report, found)
    report.findings += found
