"""Perturbation: how far a model's logits move when every layer's output is off by one rounding.

Two runs that compute the same thing in another order (another padding, a cache) differ by rounding. How much
that may be depends on the model, its depth and its dtype, so it is measured: the batch is run once more with
the output of every layer moved by one unit of roundoff, at random (Monte Carlo arithmetic). Noise that a
model has anyway from run to run is part of what that run shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..models import Adapter, Batch
from ..models.forward import Outputs, forward

__all__ = [
    "OTHER_ORDER",
    "SAME_ORDER",
    "Movement",
    "Rounding",
    "changes_at",
    "more_rounding",
    "moved_by",
    "near_ties",
    "perturbed",
    "repeats",
    "row_changes",
    "stream_logits",
]

#: Times the measured movement that runs of the same shapes may differ by: they compute in the same order.
SAME_ORDER = 2.0
#: The same for runs of other shapes: one matrix product holds many roundings, a hook can add only one.
OTHER_ORDER = 16.0
#: How often a near tie is tried to be turned over: few of the roundings do it.
TRIES = 12
#: Functions by which a model chooses experts and tokens.
CHOICES = frozenset(("topk", "argmax", "sort", "argsort"))
#: Logits that are compared at once: as many as stay in a core's cache.
CHUNK_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Movement:
    """How far one rounding in every layer moves a logit at most, per modality."""

    text: float = 0.0
    audio: float = 0.0

    def allowed(self, stream: str, times: float) -> float:
        """The budget of a stream's rows."""
        return times * (self.audio if stream.startswith("audio") else self.text)

    def explains(self, change: Tensor, stream: str, times: float) -> Tensor:
        """(R,) bool: rows of a stream that have moved no further than that; none that is NaN."""
        return change <= self.allowed(stream, times)


@dataclass
class Rounding:
    """What rounding does to the logits ``base`` of a batch, measured once a row has moved by more than one unit of it.

    That unit is part of every measurement, and most rows stay within: the batch is not run once more for them.
    """

    model: nn.Module
    adapter: Adapter
    batch: Batch
    base: Outputs

    @cached_property
    def measured(self) -> Movement:
        """What one rounding in every layer does."""
        return perturbed(self.model, self.adapter, self.batch, self.base)

    @cached_property
    def least(self) -> Movement:
        """What no measurement lies below: one unit of the largest logit."""
        return Movement(**{kind: _unit(logits) for kind, logits in _by_kind(self.base)})

    def allowed(self, stream: str, times: float) -> float:
        """The measured budget of a stream's rows."""
        return self.measured.allowed(stream, times)

    def explains(self, change: Tensor, stream: str, times: float) -> Tensor:
        """(R,) bool: rows of a stream that have moved no further than that; none that is NaN."""
        within = self.least.explains(change, stream, times)
        return within if bool(within.all()) else self.measured.explains(change, stream, times)


def perturbed(
    model: nn.Module, adapter: Adapter, batch: Batch, base: Outputs, roundings: float = 1, seed: int = 0
) -> Movement:
    """Run the batch with a rounding of so many units more in every layer, and compare with ``base``."""
    with more_rounding(model, roundings, seed):
        moved = forward(model, adapter, batch)
    others = dict(_by_kind(moved))
    return Movement(**{kind: moved_by(one, _distance(one, others[kind])) for kind, one in _by_kind(base)})


def moved_by(logits: Tensor, change: Tensor) -> float:
    """How far logits (r, V) have moved, each row by its entry of ``change`` (r,), and one rounding more."""
    return float(change.max()) + _unit(logits)


def _unit(logits: Tensor) -> float:
    """One rounding of the largest logit."""
    return torch.finfo(logits.dtype).eps * _largest(logits)


def _by_kind(outputs: Outputs) -> Iterator[tuple[str, Tensor]]:
    """The logits of each modality that has any."""
    for kind, logits in (("text", outputs.logits), ("audio", outputs.audio_logits)):
        if logits is not None and logits.numel():
            yield kind, logits.detach()


def near_ties(model: nn.Module, adapter: Adapter, batch: Batch, base: Outputs, errors: Mapping[str, float]) -> bool:
    """Whether rounding alone moves logits as far as ``errors`` per modality: it turns a choice over.

    A model that chooses (experts by their scores, tokens to attend to) jumps where two are nearly equal, and one
    rounding a layer need not find that place; the largest that other shapes may bring is tried a few times.
    """
    with _Choices() as seen:
        moved = perturbed(model, adapter, batch, base, OTHER_ORDER, seed=1)
    for seed in range(2, TRIES + 2):
        if not seen.any:
            return False
        if all(error <= moved.allowed(kind, SAME_ORDER) for kind, error in errors.items()):
            return True
        moved = perturbed(model, adapter, batch, base, OTHER_ORDER, seed)
    return False


class _Choices(TorchFunctionMode):
    """Sees whether a forward chooses among scores."""

    any = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.any |= getattr(func, "__name__", "") in CHOICES
        return func(*args, **(kwargs or {}))


def stream_logits(outputs: Outputs, streams: int) -> list[Tensor]:
    """Per stream, (R, V): the logits of its rows."""
    text, audio = outputs.logits, outputs.audio_logits
    if text is None:  # the text stream of a model without a text head: its rows have no logits that could move
        text = torch.zeros(0, 1) if audio is None else audio.new_zeros((len(audio), 1))
    logits = [text.reshape(-1, text.shape[-1])]
    if streams > 1 and audio is not None:
        logits += list(audio.unbind(1))
    return logits


def row_changes(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """Per stream, (R,): the largest difference of each row's logits; NaN where either holds one."""
    return [_distance(a, b) for a, b in zip(one, other, strict=True)]


def changes_at(one: Tensor, at: Tensor, other: Tensor, there: Tensor) -> Tensor:
    """(r,): the largest difference between rows ``at`` (r,) of one and rows ``there`` of another, both (.., V)."""
    step = _rows_at_once(one.shape[-1])
    pairs = zip(at.split(step), there.split(step), strict=True)
    parts = [_difference(_rows(one, mine).float(), _rows(other, theirs).float()) for mine, theirs in pairs]
    return torch.cat(parts) if parts else one.new_zeros(0)


def _rows(values: Tensor, at: Tensor) -> Tensor:
    """Some rows: where they lie one after another, as most do, without a copy."""
    rows = at.tolist()
    ordered = bool(rows) and rows == list(range(rows[0], rows[-1] + 1))
    return values[rows[0] : rows[-1] + 1] if ordered else values[rows]


def repeats(logits: Sequence[Tensor], changes: Sequence[Tensor | None]) -> bool:
    """Whether two runs on one random state gave the same logits, up to far more than rounding can move."""
    pairs = [(a, change) for a, change in zip(logits, changes, strict=True) if change is not None and a.numel()]
    return all(bool((change <= torch.finfo(a.dtype).eps ** 0.5 * _largest(a)).all()) for a, change in pairs)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Largest difference per row, a few rows at a time: the logits of a batch are large."""
    width = one.shape[-1]
    step = _rows_at_once(width)
    pairs = zip(one.reshape(-1, width).split(step), other.reshape(-1, width).split(step), strict=True)
    parts = [_difference(a.float(), b.float()) for a, b in pairs]
    return torch.cat(parts) if parts else one.new_zeros(0)


def _rows_at_once(width: int) -> int:
    return max(1, CHUNK_ELEMENTS // max(width, 1))


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Largest difference per row; none between two ids that are both masked out (-inf)."""
    found = torch.sub(one, other).abs_().amax(-1)
    if bool(found.isnan().any()):
        found = torch.where(one == other, 0, (one - other).abs()).amax(-1)
    return found


def _largest(values: Tensor) -> float:
    """The size of the largest value, -inf left out: it masks an id."""
    low, high = torch.aminmax(values)
    if bool(low == -torch.inf):
        low = values.masked_fill(values == -torch.inf, torch.inf).amin()
    return float(torch.maximum(-low, high))


@contextmanager
def more_rounding(model: nn.Module, roundings: float = 1, seed: int = 0) -> Iterator[None]:
    """Move the output of every layer by so many units of roundoff, at random."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    def off(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() == 0:
            return None
        signs = torch.randint(0, 2, output.shape[-1:], generator=generator, device=device).to(output) * 2 - 1
        return output * (1 + roundings * torch.finfo(output.dtype).eps * signs)

    with ExitStack() as hooks:
        for module in model.modules():
            if not any(True for _ in module.children()):
                hooks.enter_context(module.register_forward_hook(off))
        yield
