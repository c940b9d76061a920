"""Rows that a loss leaves out by what they lose: it keeps its hardest tokens alone, or those beyond a threshold.

A step that is watched as it runs does not show which rows other logits would train. Its own do show what every row
loses: where those that are not trained are the ones that lose least (or most), the loss has chosen among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment import IGNORE_INDEX, Finding, Supervision
from alignment.findings import finding
from alignment.recovery import CHUNK_ELEMENTS
from alignment.sketch import Sketch

from .expected import Expectation
from .forwards import Forward
from .joined import Joined

__all__ = ["losses_at_input", "losses_of", "without_chosen"]

#: Odds up to which chance does not leave out the rows that lose least, or most: these two are tried.
CHANCE, TRIED = 0.1, 2
#: So many rows at least are left out, and so many of them are just those that lose least: a script may go on with
#: logits that it caps or rounds, or hold what a row loses to what another model does.
LEAST, AGREED = 2, 2 / 3


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


def losses_at_input(hidden: Tensor, head: nn.Module, ids: Tensor) -> Tensor:
    """(R,) the same of rows (R, H) that a head reads, whose logits never are a tensor that is seen."""
    weight, bias, parts = head.weight.detach(), getattr(head, "bias", None), []
    after = ids.roll(-1).clamp(0, len(weight) - 1).to(hidden.device)
    for rows in torch.arange(len(hidden), device=hidden.device).split(max(1, CHUNK_ELEMENTS // len(weight))):
        logits = F.linear(hidden[rows].to(weight), weight, None if bias is None else bias.detach()).float()
        parts.append(F.cross_entropy(logits, after[rows], reduction="none"))
    return torch.cat(parts).cpu()


def without_chosen(
    first: Expectation, excused: Expectation, joined: Joined, forwards: Sequence[Forward]
) -> tuple[Expectation, list[Finding]]:
    """What the first stream must train without rows that its loss has left out by what they lose, and LA804 of them.

    Where nothing is missing that is not ``excused`` already, or the loss has chosen none, it is that.
    """
    expected, actual = first.supervision, joined.actual[0]
    heard = actual.trained | actual.soft
    missing = expected.trained & ~expected.lost & ~heard
    clear = not bool((missing & excused.supervision.trained).any())
    if clear or bool((heard & ~expected.trained).any()):
        return excused, []
    losses = torch.cat([_losses(one, int((joined.part[0] == n).sum())) for n, one in enumerate(forwards)])
    due = expected.trained & expected.stream.follows() & (expected.target == expected.stream.ids.roll(-1))
    due &= ~losses.isnan()
    if bool(losses[due].isinf().any()):  # that the logits are not finite stands alone
        return excused, []
    if 2 * int((missing & due).sum()) <= int(missing.sum()):  # the last targets of windows are none of the ids
        return excused, []
    sample = expected.stream.sample
    if not bool(torch.isin(sample[missing], sample[heard]).any()):  # whole samples are left out, and no tokens of one
        return excused, []
    for group in (joined.part[0], sample):
        for which, signed in (("least", losses), ("most", -losses)):
            if _is_chosen(signed, due & heard, due & missing, group):
                target = expected.target.masked_fill(missing, IGNORE_INDEX)
                weight = expected.weight.masked_fill(missing, 0.0)
                left = replace(expected, target=target, weight=weight)
                return replace(first, supervision=left), [_told(expected, missing, which)]
    return excused, []


def _told(expected: Supervision, missing: Tensor, which: str) -> Finding:
    count, name = int(missing.sum()), expected.stream.name
    message = (
        f"{count} of {expected.count} labelled rows of {name} have no gradient, and they are those that lose {which}: "
        "the loss chooses its tokens by what they lose (the hardest alone, a threshold), and whether others train "
        "them does not show in a step"
    )
    return finding("LA804", name, message, count=count, fix="Check the loss by `check_loss`, which draws other logits.")


def _is_chosen(losses: Tensor, kept: Tensor, missing: Tensor, group: Tensor) -> bool:
    """Whether in every group the rows that are missing are those that lose least, or most are, and not by chance."""
    odds, agreed = math.log(TRIED), 0
    for number in torch.unique(group[missing]).tolist():
        mine = group == number
        few, others = losses[missing & mine], losses[kept & mine]
        if not len(others):
            return False
        lowest = torch.cat([few, others]).argsort()[: len(few)]
        right = int((lowest < len(few)).sum())
        odds += _log_odds(right, len(few), len(others))
        agreed += right
    count = int(missing.sum())
    return count >= LEAST and agreed >= AGREED * count and odds <= math.log(CHANCE)


def _log_odds(right: int, few: int, others: int) -> float:
    """The odds that so many of ``few`` rows that are drawn are among the lowest ``few`` of all (hypergeometric)."""
    wrong = torch.arange(few - right + 1, dtype=torch.float64)
    ways = _log_choose(few, wrong) + _log_choose(others, wrong)
    return float(ways.logsumexp(0) - _log_choose(few + others, torch.tensor(few, dtype=torch.float64)))


def _log_choose(total: int, some: Tensor) -> Tensor:
    """The logarithm of how many ways there are to take ``some`` of a ``total``."""
    left = total - some
    known = torch.lgamma(torch.tensor(total + 1.0, dtype=torch.float64)) - torch.lgamma(some + 1)
    return (known - torch.lgamma(left.clamp(min=0) + 1)).masked_fill(left < 0, -torch.inf)


def _losses(forward: Forward, count: int) -> Tensor:
    """(R,) what the rows of a forward lose, by the first of its calls that tells."""
    out = torch.full((count,), torch.nan)
    for call in forward.calls:
        if call.losses is not None and len(call.losses) == count:
            out = torch.where(out.isnan(), call.losses, out)
    return out
