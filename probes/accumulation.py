"""Accumulation: do the targets of one optimizer step weigh alike over the micro-batches that it is made of?

Nothing is declared and nothing is run again: the weights are those of the micro-batches as a trainer trains them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import Finding, Supervision
from alignment.comparison import merge_codebooks
from alignment.findings import finding
from alignment.weights import TOLERANCE, spread

from .reduction import EXACT, Reduction, told_sums

__all__ = ["accumulation_findings"]

#: How near to one the weights of a micro-batch must add up to count as a mean of its own.
NEAR_ONE = 1e-3


def accumulation_findings(
    parts: Sequence[Sequence[Supervision]], *, reduction: Reduction | None = None, exact: float = EXACT
) -> list[Finding]:
    """LA302 where the micro-batches of one step are means of their own.

    Two faults look alike in a training log: targets of micro-batches that hold few of them weigh more (a mean of
    means), and weights that add up to the number of micro-batches instead of to one. Weights that are irregular
    inside a micro-batch (of classes, focal) are not judged.

    Args:
        parts: per micro-batch of one optimizer step, what each stream is trained on.
        reduction: what the weights are meant to keep to; a mean over all targets of the step if None.
        exact: relative difference of two weights that is more than rounding.
    """
    findings = []
    for stream in dict.fromkeys(one.stream.name for part in parts for one in part):
        trained = [one for part in parts for one in part if one.stream.name == stream and bool(one.trained.any())]
        wrong = _wrong([_units(one, reduction) for one in trained], reduction, exact) if len(trained) > 1 else ""
        if wrong:
            count = sum(int(one.trained.sum()) for one in trained)
            findings.append(finding("LA302", stream, f"{stream}: {wrong}", count=count))
    books = sum(name.startswith("audio") for name in dict.fromkeys(one.stream.name for part in parts for one in part))
    return list(merge_codebooks(findings, books))


def _units(one: Supervision, reduction: Reduction | None) -> Tensor:
    """(n,) the weight of each target; of each sample, where samples are meant to weigh alike."""
    weight = one.weight[one.trained]
    if reduction != "sequence-mean":
        return weight
    sample = one.stream.sample[one.trained]
    return torch.stack([weight[sample == number].sum() for number in torch.unique(sample)])


def _wrong(parts: Sequence[Tensor], reduction: Reduction | None, exact: float) -> str:
    """What is wrong with the units' weights over the micro-batches, in words; empty if nothing is."""
    if any(spread(part) > TOLERANCE for part in parts):
        return ""
    unit = "sample" if reduction == "sequence-mean" else "target"
    if not spread(torch.stack([part.mean() for part in parts])) <= exact:
        return (
            f"a {unit} weighs more in one micro-batch of a step than in another ({told_sums(parts)}): a mean of means; "
            f"divide by the {unit}s of the whole step"
        )
    sums = torch.stack([part.sum() for part in parts])
    if reduction != "sum" and bool(((sums - 1).abs() <= NEAR_ONE).all()):
        return (
            f"every one of {len(parts)} micro-batches is a mean of its own ({told_sums(parts)}), and the weights of a "
            "step add up to the number of its micro-batches: the gradient is that many times too large; divide by it"
        )
    return ""
