"""LA303: Codebooks weigh differently in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..findings import Finding, finding
from ..weights import TOLERANCE, spread
from .judged import Judged
from .rule import RIGHT_AUDIO, Rule

if TYPE_CHECKING:
    from ..supervision import Supervision


def judge_all(streams: Sequence[Judged]) -> Iterator[Finding]:
    """Where codebooks do not count alike."""
    return uneven_codebooks([one.actual for one in streams if one.actual.stream.is_audio])


def uneven_codebooks(books: Sequence[Supervision]) -> Iterator[Finding]:
    """LA303 where trained codebooks weigh differently: by a factor of their own, the same in every frame.

    Weights that differ from frame to frame as well, preferences and what a soft teacher leaves are a choice; those of
    a sampled softmax follow its draws.
    """
    trained = [book for book in books if book.count]
    if len(trained) < 2 or len({len(a.stream) for a in trained}) > 1 or any(_is_rough(a) for a in trained):
        return
    rows = trained[0].trained
    for a in trained[1:]:
        rows = rows & a.trained
    weights = [a.weight[rows] for a in trained]
    if not bool(rows.any()) or any(bool((weight < 0).any()) for weight in weights):
        return
    mean = sum(weights[1:], weights[0]) / len(weights)
    shares = [weight / mean for weight in weights]
    factor = mean.new_tensor([float(share.mean()) for share in shares])
    own = all(bool(((share - f).abs() <= TOLERANCE * f).all()) for share, f in zip(shares, factor, strict=True))
    if own and spread(factor) > TOLERANCE:
        told = ", ".join(f"{a.stream.name} {float(f):.3g}" for a, f in zip(trained, factor, strict=True))
        message = f"codebooks weigh differently (share of the mean): {told}"
        yield finding("LA303", "audio", message, count=len(trained))


def _is_rough(one: Supervision) -> bool:
    return bool(one.unread) or (one.mixed is not None and bool((one.mixed & one.trained).any()))


RULE = Rule(
    "LA303",
    "uneven-codebooks",
    "warning",
    summary="Codebooks weigh differently in the loss.",
    headline="The codebooks do not weigh alike",
    silent="The codebooks are summed into one number before anybody looks at it.",
    fix="Give every codebook the same weight and denominator; where the difference is meant, pass `--ignore LA303`.",
    of_all=judge_all,
    bad="""\
model, batch, options = speech()


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    pairs = [(heads[k][:, :-1], codes[:, k, 1:]) for k in range(2)]
    first, second = (F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)
    return first + 3 * second
""",
    good=RIGHT_AUDIO,
)
