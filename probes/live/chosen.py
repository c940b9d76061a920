"""Rows that a loss leaves out by what they lose: it keeps its hardest tokens alone, or those beyond a threshold.

A step that is watched as it runs does not show which rows other logits would train. Its own do show what every row
loses: where those that are not trained are exactly the ones that lose least (or most), the loss has chosen among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Supervision
from alignment.findings import finding
from alignment.sketch import Sketch

from .expected import Expectation
from .forwards import Forward
from .joined import Joined

__all__ = ["losses_of", "without_chosen"]

#: Odds up to which chance does not leave out exactly the rows that lose least.
CHANCE = 0.02
#: Forms that are tried: rows of each forward or of each sample, the least or the most.
TRIED = 4
#: Losses are the same if they differ by this part of them.
SAME = 1e-4


def losses_of(logits: Tensor, kept: Sketch, ids: Tensor, rows: Tensor) -> Tensor:
    """(R,) float32 what every received row loses on the token after it; NaN where its logits are not among these.

    Args:
        logits: (r, V).
        kept: their sketch.
        ids: (R,) that were received.
        rows: (r,) the received row of each row of logits.
    """
    own = logits.detach().reshape(-1, kept.vocab)
    after = ids.roll(-1).clamp(0, kept.vocab - 1)[rows].to(own.device)
    both = own.gather(1, torch.stack([kept.token[:, 0], after], 1)).float()
    out = torch.full(ids.shape, torch.nan)
    out[rows] = (both[:, 0] - kept.log_prob[:, 0] - both[:, 1]).cpu()
    return out


def without_chosen(
    first: Expectation, joined: Joined, forwards: Sequence[Forward]
) -> tuple[Expectation, list[Finding]]:
    """What the first stream must train without rows that its loss has left out by what they lose, and LA804 of them."""
    expected, actual = first.supervision, joined.actual[0]
    heard = actual.trained | actual.soft
    missing = expected.trained & ~expected.lost & ~heard
    if not first.known or not bool(missing.any()) or bool((heard & ~expected.trained).any()):
        return first, []
    losses = torch.cat([_losses(one, int((joined.part[0] == n).sum())) for n, one in enumerate(forwards)])
    due = expected.trained & expected.stream.follows() & (expected.target == expected.stream.ids.roll(-1))
    if bool((missing & ~due).any()) or not bool(losses[due].isfinite().all()):
        return first, []
    for group in (joined.part[0], expected.stream.sample):
        for which, signed in (("least", losses), ("most", -losses)):
            if _is_chosen(signed, due & heard, missing, group):
                target = expected.target.masked_fill(missing, IGNORE_INDEX)
                weight = expected.weight.masked_fill(missing, 0.0)
                left = replace(expected, target=target, weight=weight)
                return replace(first, supervision=left), [_told(expected, missing, which)]
    return first, []


def _told(expected: Supervision, missing: Tensor, which: str) -> Finding:
    count, name = int(missing.sum()), expected.stream.name
    message = (
        f"{count} of {expected.count} labelled rows of {name} have no gradient, and just these lose {which}: the loss "
        "chooses its tokens by what they lose (the hardest alone, a threshold), and whether other logits would train "
        "them does not show in a step"
    )
    return finding("LA804", name, message, count=count, fix="Check the loss by `check_loss`, which draws other logits.")


def _is_chosen(losses: Tensor, kept: Tensor, missing: Tensor, group: Tensor) -> bool:
    """Whether in every group the rows that are missing lose less than all that are kept, and not by chance."""
    certain = 0.0
    for number in torch.unique(group[missing]).tolist():
        few, others = losses[missing & (group == number)], losses[kept & (group == number)]
        if not len(others) or float(few.max()) > float(others.min()) + SAME * (1 + float(others.min().abs())):
            return False
        both = len(few) + len(others)
        certain += math.lgamma(both + 1) - math.lgamma(len(few) + 1) - math.lgamma(len(others) + 1)
    return certain > math.log(TRIED / CHANCE)


def _losses(forward: Forward, count: int) -> Tensor:
    """(R,) what the rows of a forward lose, by the first of its calls that tells."""
    out = torch.full((count,), torch.nan)
    for call in forward.calls:
        if call.losses is not None and len(call.losses) == count:
            out = torch.where(out.isnan(), call.losses, out)
    return out
