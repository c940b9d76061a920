"""LA301: The weights of a stream are constant inside a sample, segment or chunk and differ between them.

Only structure is reported: weights that are constant inside a sample, a span or a chunk and differ
between them so that each adds up to the same are what a mean of means leaves behind. Other weights
(class weights, focal loss, rewards, preferences) are a choice, and are stated with the stream instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..findings import Finding, finding
from ..weights import TOLERANCE, spread
from .judged import Judged
from .rule import Rule

if TYPE_CHECKING:
    from torch import Tensor

    from ..supervision import Supervision

#: How many rows the fullest chunk must hold before chunks are read off the weights alone.
ALIKE = 8


def judge(one: Judged) -> Iterator[Finding]:
    """Where a stream's weights are a mean of means."""
    return uneven_weights(one.actual, one.apart)


def uneven_weights(actual: Supervision, apart: Tensor | None = None) -> Iterator[Finding]:
    """LA301 where the weights of one stream have the structure of a mean of means, once.

    Args:
        actual: what a loss trains.
        apart: (R,) int64, rows of one number were trained by one backward; weights are compared within. One if None.
    """
    if apart is None and not actual.weight_spread > TOLERANCE:
        return
    rows = actual.trained.nonzero().reshape(-1)
    numbers = [] if apart is None else apart[rows].unique().tolist()
    for part in [rows] if apart is None else (rows[apart[rows] == number] for number in numbers):
        found = _uneven(actual, part)
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
        size = group[stream.segment >= 0].bincount(minlength=int(group.max()) + 1)
        yield what, group[rows], size[group[rows]]
    # what is unreadable between two rows may well be trained
    gone = (~(actual.trained | actual.soft)).long().cumsum(0)[rows]
    yield "labelled span", gone, gone.new_ones(len(gone))


def _is_mean(weight: Tensor, group: Tensor, size: Tensor) -> bool:
    """Whether weights are constant in every group, and each group adds up to the same: targets or tokens divide it.

    Weights of samples that are chosen (rewards, a sampling weight) do so by chance alone.
    """
    return _structured(weight, group) and (_chunks(weight) > 0 or not spread(weight * size) > TOLERANCE)


def _structured(weight: Tensor, group: Tensor) -> bool:
    _, number, counts = group.unique(return_inverse=True, return_counts=True)
    if len(counts) < 2 or int(counts.max()) < 2:
        return False
    mean = weight.new_zeros(len(counts)).scatter_add_(0, number, weight) / counts
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
    change = weight.new_zeros(len(weight)).long()
    change[1:] = (weight[1:] - weight[:-1]).abs() > TOLERANCE * weight[:-1].abs()
    return change.cumsum(0)


def _chunks(weight: Tensor) -> int:
    """The targets of the fullest chunk, where stretches of one weight each add up to the same, or hold several that do.

    0 where they do not.
    """
    number = _stretches(weight)
    counts = number.bincount()
    total = weight.new_zeros(len(counts)).scatter_add_(0, number, weight)
    share = total / total.min()
    chunks = share.round().long()
    whole = ((share - chunks).abs() <= TOLERANCE * chunks) & (counts % chunks == 0)
    return int((counts // chunks).max()) if bool(whole.all()) else 0


RULE = Rule(
    "LA301",
    "uneven-weights",
    "warning",
    summary="The weights of a stream are constant inside a sample, segment or chunk and differ between them.",
    headline="The targets of {stream} do not weigh alike",
    silent="A mean of means is a valid loss of the right size; it only makes tokens of short samples count more.",
    fix="Sum over all targets and divide once, or declare the mean that is meant: `--reduction "
    "token-mean|sequence-mean|sum`.",
    note="Chosen weights (class weights, focal loss, rewards) are stated under `streams`, not reported.",
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    pairs = zip(logits[:, :-1], labels[:, 1:])
    return torch.stack([F.cross_entropy(x, y) for x, y in pairs]).mean()
""",
)
