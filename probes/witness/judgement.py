"""The judge: what follows the reading of a loss, whichever reader read it and whatever door stands before it.

A door gathers what it can see: streams, labels, and what the gradients say of every row. What is made of that stands
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import Finding, Supervision, compare
from alignment.findings import finding
from alignment.verdicts import Verdicts, judge

from ..models.adapter import View
from .ahead import told_ahead
from .aside import from_aside
from .delayed import within_delay
from .kin import among_kin
from .masked import masked
from .problems import told_dropped

__all__ = ["Judgement", "judge_loss", "labels_dropped", "unlabelled"]

#: What text shows that lost its labels on the way: nothing, or labels that nobody expanded.
WITHOUT_LABELS = frozenset({"LA105", "LA205", "LA206", "LA605"})


@dataclass(frozen=True)
class Judgement:
    """What a loss trains beside what it must train, and what is wrong with it.

    Attributes:
        expected: per stream, without rows that a masked objective may leave as they are.
        actual: the same of what is trained.
        findings: what tells the two apart.
        notes: what a reader should know.
        verdicts: per stream, what each of its rows is.
    """

    expected: tuple[Supervision, ...]
    actual: tuple[Supervision, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    verdicts: tuple[Verdicts, ...] = ()


def judge_loss(
    view: View,
    expected: Sequence[Supervision],
    actual: Sequence[Supervision],
    *,
    weights: Sequence[Tensor] | None = None,
    apart: Sequence[Tensor] | None = None,
) -> Judgement:
    """Compare what is trained with what must be.

    Args:
        view: streams and labels.
        expected: per stream, what must be trained.
        actual: per stream, what is.
        weights: (R,) per stream, what is compared in place of the weights of ``actual``; those if None.
        apart: (R,) int64 per stream, the backward that trained a row; None where one trained them all.
    """
    seen = masked(view, expected, _as_named(view, actual))
    weighed = [replace(one, weight=weight) for one, weight in zip(seen.actual, weights or (), strict=bool(weights))]
    rows = zip(seen.expected, seen.actual, strict=True)
    verdicts = tuple(judge(n, wanted, got, seen.expected) for n, (wanted, got) in enumerate(rows))
    found = [*compare(seen.expected, weighed or seen.actual, apart, verdicts), *seen.findings]
    findings = told_ahead(among_kin(found, weighed or seen.actual, view), view)
    # nobody said what must be trained there: only where its targets are taken from can be judged
    findings = [one for one in findings if one.code != "LA202" or not unlabelled(view, one.stream)]
    findings += _trained_padding(view, seen.actual, findings)
    findings = from_aside(findings, seen.expected, seen.actual, view)
    findings = within_delay(findings, seen.actual, view)
    if unlabelled(view):
        findings = [_zero(one) if one.code == "LA206" else one for one in findings]
    return Judgement(seen.expected, seen.actual, tuple(findings), seen.notes, verdicts)


def _zero(found: Finding) -> Finding:
    """LA804 in the place of LA206: a gradient that is zero where nobody says that anything must be trained."""
    message = (
        "the gradient at the logits is exactly zero, and nobody says what must be trained: equal rewards, or a mask "
        "that leaves nothing, are no fault; watch more steps"
    )
    return finding("LA804", found.stream, message)


def _as_named(view: View, actual: Sequence[Supervision]) -> list[Supervision]:
    """The supervisions; the last rows of windows whose next token the batch names have no source among the inputs."""
    out = list(actual)
    if view.after is not None:
        one = actual[0]
        own = one.trained & ~one.stream.follows() & (one.target == view.after.to(one.target.device))
        own &= one.stream.sample[one.source.clamp(min=0)] != one.stream.sample
        out[0] = replace(one, source=one.source.masked_fill(own, -1), origin=one.origin.masked_fill(own, -1))
    return out


def _trained_padding(view: View, actual: Sequence[Supervision], found: Sequence[Finding]) -> list[Finding]:
    """LA202 of streams without labels: padding is no target, whoever says what is.

    Behind the last token of a text it may be the end, where one id is both.
    """
    accused = {name for one in found if one.is_error for name in one.stream.split(", ")}
    out = []
    for number, one in enumerate(actual):
        name, padding = one.stream.name, one.stream.segment < 0
        if view.labels[number] is not None or accused & {"all", name, name.partition("[")[0]}:
            continue
        own = one.trained & (one.origin == number) & (one.offset == 1)
        rows = own & padding[one.source.clamp(0, max(len(padding) - 1, 0))]  # sources of other streams count there
        rows &= padding | ~torch.isin(one.target, torch.tensor(one.stream.end_ids).to(one.target))
        count = int(rows.sum())
        if count:
            message = f"{count} rows of {name} are trained on padding, which is no target"
            out.append(finding("LA202", name, message, count=count))
    return out


def labels_dropped(dropped: Sequence[str], found: Sequence[Finding], *, own: bool) -> list[Finding]:
    """LA601: a wrapper was given labels, and the innermost forward was not.

    Args:
        dropped: names of the labels.
        found: what was found before.
        own: whether a module of the user's own wraps the model. It may keep the labels and compute the loss itself,
            and is accused where text goes without.
    """
    text = any(one.code in WITHOUT_LABELS and not one.stream.startswith("audio") for one in found)
    if not dropped or (own and not text):
        return []
    return [finding("LA601", "text", told_dropped(dropped), count=len(dropped))]


def unlabelled(view: View, name: str = "all") -> bool:
    """Whether none of the streams that a finding names has labels, not even masked ones."""
    return all(
        labels is None
        for stream, labels in zip(view.streams, view.labels, strict=True)
        if stream.name in name.split(", ") or (stream.is_audio and name == "audio") or name == "all"
    )
