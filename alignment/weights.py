"""Weights: do all targets of a stream count alike, and all codebooks?

Only structure is reported: weights that are constant inside a sample, a span or a chunk and differ
between them are what a mean of means leaves behind. Irregular weights (class weights, focal loss)
are a choice, and are stated with the stream instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .findings import Finding, finding
from .supervision import Supervision

__all__ = ["spread", "uneven_codebooks", "uneven_weights"]

#: Relative difference from which two weights count as different (half precision rounds at 4e-3).
TOLERANCE = 1e-2
#: How many rows the fullest chunk must hold before chunks are read off the weights alone.
ALIKE = 8


def spread(weight: Tensor) -> float:
    """(max - min) / mean of the absolute weights; 0 if there are none."""
    if weight.numel() == 0:
        return 0.0
    size = weight.abs()
    return float((size.max() - size.min()) / size.mean())


def uneven_weights(actual: Supervision) -> Iterator[Finding]:
    """LA301 where the weights of one stream have the structure of a mean of means."""
    rows = torch.nonzero(actual.trained).reshape(-1)
    weight = actual.weight[rows]
    if rows.numel() < 2 or not spread(weight) > TOLERANCE:
        return
    what = next((what for what, group in _groupings(actual, rows) if _structured(weight, group)), None)
    if what is None and _chunked(weight):
        what = "chunk"
    if what is not None:
        name = actual.stream.name
        message = (
            f"the weights of {name} are constant inside each {what} and differ between them by a "
            f"factor of up to {float(weight.abs().max() / weight.abs().min()):.3g}: a mean of means"
        )
        yield finding("LA301", name, message, count=int(rows.numel()))


def _groupings(actual: Supervision, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
    stream = actual.stream
    yield "sample", stream.sample[rows]
    yield "segment", stream.segment[rows]
    breaks = torch.zeros_like(rows)
    breaks[1:] = (rows[1:] != rows[:-1] + 1).long()
    yield "labelled span", breaks.cumsum(0)


def _structured(weight: Tensor, group: Tensor) -> bool:
    _, number, counts = torch.unique(group, return_inverse=True, return_counts=True)
    if len(counts) < 2 or int(counts.max()) < 2:
        return False
    total = torch.zeros(len(counts), dtype=weight.dtype, device=weight.device)
    mean = total.scatter_add_(0, number, weight) / counts
    inside = ((weight - mean[number]).abs() <= TOLERANCE * mean[number].abs()).all()
    return bool(inside) and spread(mean) > TOLERANCE


def _chunked(weight: Tensor) -> bool:
    """Whether stretches of one weight each add up to the same, or are several such stretches of one length.

    Where chunks begin is not known: rows are cut, flattened and unlabelled in between. A mean per chunk gives
    every chunk the same sum, which class weights do only by chance.
    """
    change = (weight[1:] - weight[:-1]).abs() > TOLERANCE * weight[:-1].abs()
    number = torch.cat([change.new_zeros(1), change]).long().cumsum(0)
    counts = torch.bincount(number)
    if not _structured(weight, number):
        return False
    total = weight.new_zeros(len(counts)).scatter_add_(0, number, weight)
    share = total.abs() / total.abs().min()
    chunks = share.round().long()
    whole = ((share - chunks).abs() <= TOLERANCE * chunks) & (counts % chunks == 0)
    return bool(whole.all()) and int((counts // chunks).max()) >= ALIKE


def uneven_codebooks(actual: Sequence[Supervision]) -> Iterator[Finding]:
    """LA303 where trained codebooks weigh differently per target."""
    trained = [a for a in actual if bool(a.trained.any())]
    means = torch.tensor([float(a.weight[a.trained].mean()) for a in trained])
    if len(means) < 2 or not spread(means) > TOLERANCE:
        return
    shares = ", ".join(f"{a.stream.name} {float(m / means.mean()):.3g}" for a, m in zip(trained, means, strict=True))
    yield finding("LA303", "audio", f"codebooks weigh differently (share of the mean): {shares}", count=len(means))
