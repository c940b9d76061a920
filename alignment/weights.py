"""Weights: do all targets of a stream count alike, and all codebooks?

Only structure is reported: weights that are constant inside a sample, a span or a chunk and differ
between them so that each adds up to the same are what a mean of means leaves behind. Other weights
(class weights, focal loss, rewards, preferences) are a choice, and are stated with the stream instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .findings import Finding, finding
from .supervision import Supervision

__all__ = ["pushed_away", "spread", "uneven_codebooks", "uneven_weights"]

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


def uneven_weights(actual: Supervision, apart: Tensor | None = None) -> Iterator[Finding]:
    """LA301 where the weights of one stream have the structure of a mean of means.

    Args:
        actual: what a loss trains.
        apart: (R,) int64, rows of one number were trained by one backward; weights are compared within. One if None.
    """
    rows = torch.nonzero(actual.trained).reshape(-1)
    number = torch.zeros_like(rows) if apart is None else apart[rows]
    for one in torch.unique(number).tolist():
        found = _uneven(actual, rows[number == one])
        if found is not None:
            yield found
            return


def _uneven(actual: Supervision, rows: Tensor) -> Finding | None:
    """LA301 for some trained rows; None where a preference or a reward weighs its samples as it likes."""
    weight = actual.weight[rows]
    if rows.numel() < 2 or not spread(weight) > TOLERANCE or bool((weight < 0).any()):
        return None
    what = next((what for what, *group in _groupings(actual, rows) if _is_mean(weight, *group)), None)
    if what is None and _chunked(weight):
        what = "chunk"
    if what is None:
        return None
    name = actual.stream.name
    message = (
        f"the weights of {name} are constant inside each {what} and differ between them by a "
        f"factor of up to {float(weight.max() / weight.min()):.3g}: a mean of means"
    )
    return finding("LA301", name, message, count=int(rows.numel()))


def _groupings(actual: Supervision, rows: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What rows belong to, by number, and how many real tokens that has, per row."""
    stream = actual.stream
    for what, group in (("sample", stream.sample), ("segment", stream.segment + 1)):
        size = torch.bincount(group[stream.segment >= 0], minlength=int(group.max()) + 1)
        yield what, group[rows], size[group[rows]]
    # what is unreadable between two rows may well be trained
    gone = (~(actual.trained | actual.soft)).long().cumsum(0)[rows]
    yield "labelled span", gone, torch.ones_like(gone)


def _is_mean(weight: Tensor, group: Tensor, size: Tensor) -> bool:
    """Whether weights are constant in every group, and each group adds up to the same: targets or tokens divide it.

    Weights of samples that are chosen (rewards, a sampling weight) do so by chance alone.
    """
    return _structured(weight, group) and (_chunks(weight) > 0 or not spread(weight * size) > TOLERANCE)


def _structured(weight: Tensor, group: Tensor) -> bool:
    _, number, counts = torch.unique(group, return_inverse=True, return_counts=True)
    if len(counts) < 2 or int(counts.max()) < 2:
        return False
    total = torch.zeros(len(counts), dtype=weight.dtype, device=weight.device)
    mean = total.scatter_add_(0, number, weight) / counts
    inside = ((weight - mean[number]).abs() <= TOLERANCE * mean[number].abs()).all()
    return bool(inside) and spread(mean) > TOLERANCE


def _chunked(weight: Tensor) -> bool:
    """Whether stretches of one weight are such chunks, though nobody knows where they begin.

    Rows are cut, flattened and unlabelled in between. A mean per chunk gives every chunk the same sum, which class
    weights do only by chance: the less so, the more targets a chunk holds.
    """
    return _structured(weight, _stretches(weight)) and _chunks(weight) >= ALIKE


def _stretches(weight: Tensor) -> Tensor:
    """(n,) int64: the number of the stretch of one weight that each row belongs to."""
    change = (weight[1:] - weight[:-1]).abs() > TOLERANCE * weight[:-1].abs()
    return torch.cat([change.new_zeros(1), change]).long().cumsum(0)


def _chunks(weight: Tensor) -> int:
    """The targets of the fullest chunk, where stretches of one weight each add up to the same, or hold several that do.

    0 where they do not.
    """
    number = _stretches(weight)
    counts = torch.bincount(number)
    total = weight.new_zeros(len(counts)).scatter_add_(0, number, weight)
    share = total / total.min()
    chunks = share.round().long()
    whole = ((share - chunks).abs() <= TOLERANCE * chunks) & (counts % chunks == 0)
    return int((counts // chunks).max()) if bool(whole.all()) else 0


def pushed_away(actual: Supervision) -> Iterator[Finding]:
    """LA304 where no row of a stream is pulled towards its target, and none is unreadable."""
    weight = actual.weight[actual.trained]
    if weight.numel() and bool((weight < 0).all()) and not bool(actual.soft.any()):
        name = actual.stream.name
        message = (
            f"all {weight.numel()} trained rows of {name} are pushed away from their target: the loss is turned round"
        )
        yield finding("LA304", name, message, count=weight.numel())


def uneven_codebooks(actual: Sequence[Supervision]) -> Iterator[Finding]:
    """LA303 where trained codebooks weigh differently: by a factor of their own, the same in every frame.

    Weights that differ from frame to frame as well, preferences and what a soft teacher leaves are a choice.
    """
    trained = [a for a in actual if bool(a.trained.any())]
    if len(trained) < 2 or len({len(a.stream) for a in trained}) > 1:
        return
    shared = torch.stack([a.trained for a in trained]).all(0)
    weight = torch.stack([a.weight for a in trained])[:, shared]
    if weight.numel() == 0 or bool((weight < 0).any()) or any(bool(a.soft.any()) for a in trained):
        return
    share = weight / weight.mean(0)
    factor = share.mean(1)
    if bool(((share.T - factor).abs() <= TOLERANCE * factor).all()) and spread(factor) > TOLERANCE:
        shares = ", ".join(f"{a.stream.name} {float(f):.3g}" for a, f in zip(trained, factor, strict=True))
        message = f"codebooks weigh differently (share of the mean): {shares}"
        yield finding("LA303", "audio", message, count=len(trained))
