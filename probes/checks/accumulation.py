"""Accumulation: do the weights of one optimizer step add up to one, or to the number of its micro-batches?

Whether its targets weigh alike is asked in ``live.micro_batches``; here every one may, and the gradient be too large.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignment import Finding, Supervision
from alignment.comparison import merge_codebooks
from alignment.findings import finding

from .reduction import told_sums

__all__ = ["undivided"]

#: How near to one the weights of a micro-batch must add up to count as a mean of its own.
NEAR_ONE = 1e-3


def undivided(parts: Sequence[Sequence[Supervision]]) -> list[Finding]:
    """LA302 where every micro-batch of one step is a mean, and nobody divides by their number.

    Args:
        parts: per micro-batch, what each stream is trained on, as the trainer calls backward on it.
    """
    names = list(dict.fromkeys(one.stream.name for part in parts for one in part))
    findings = []
    for name in names:
        trained = [one for part in parts for one in part if one.stream.name == name and bool(one.trained.any())]
        weights = [one.weight[one.trained] for one in trained]
        if len(weights) > 1 and all(abs(float(weight.sum()) - 1) <= NEAR_ONE for weight in weights):
            message = (
                f"{name}: every one of {len(weights)} micro-batches is a mean of its own ({told_sums(weights)}), and "
                "the weights of a step add up to their number: the gradient is that many times too large"
            )
            findings.append(finding("LA302", name, message, count=sum(map(len, weights))))
    return list(merge_codebooks(findings, sum(name.startswith("audio") for name in names)))
