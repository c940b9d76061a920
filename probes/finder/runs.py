"""Runs: the loss on a batch, on a tape, under the same random numbers each time; what its candidates say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alignment.streams import IGNORE_INDEX

from ..errors import UsageError, answer_of
from ..host.preserve import copy_of, same_random_state, seed_torch
from ..models.adapter import Batch
from ..models.modules import unwrapped
from .candidates import Candidate, Run, search
from .renaming import Renaming
from .tape import Tape

__all__ = ["Echo", "Program", "Seen", "called", "same_conditions"]

#: Logits that differ by less than this part of their spread are the same up to rounding.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8}
COARSE = 2e-2


@dataclass(frozen=True)
class Seen:
    """What one run says of a candidate.

    Attributes:
        target: (R,) int64; ``IGNORE_INDEX`` where none.
        free: (R,) bool: rows trained on a token that a renaming exchanges.
        mark: (R,) float: a number that stands for the row's logits.
    """

    target: Tensor
    free: Tensor
    mark: Tensor


@dataclass(frozen=True)
class Echo:
    """What a renaming did to a candidate.

    Attributes:
        targets: (R,) bool: rows trained before and after, on another token.
        logits: (R,) bool: rows whose logits changed.
        share: of the rows trained before and after, how many are trained on another token.
    """

    targets: Tensor
    logits: Tensor
    share: float


@dataclass
class Program:
    """A loss on a model and a batch, run as often as it takes.

    Attributes:
        kept: ids that no renaming exchanges.
        skip: candidates that are judged elsewhere.
        candidates: tensors with the form of logits.
        outputs: the shape that each module gave, by its path.
        seen: per candidate, what the batch as it is says.
    """

    model: nn.Module
    batch: Batch
    loss_fn: Callable[[nn.Module, Any], Tensor]
    kept: frozenset[int] = frozenset()
    skip: Callable[[Candidate], bool] = lambda _: False
    candidates: list[Candidate] = field(default_factory=list)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    loss: float = math.nan
    past: tuple[str, ...] = ()
    scales: dict[int, float] | None = None

    def look(self, judge: Callable[[Run, Sequence[Candidate]], tuple[str, ...]]) -> None:
        """The first run: find the candidates, and ask ``judge`` what else the loss reaches.

        Raises:
            UsageError: the loss raises, or returns no scalar with a gradient.
        """
        with self._run(self.batch) as run:
            self.loss, self.scales = float(run.loss.detach()), run.tape.scales
            self.candidates = search(run, self.model)
            self.outputs = dict(run.tape.outputs)
            logits = [one for one in self.candidates if not one.inside and not self.skip(one)]
            targets = [reading.target for reading in run.readings(logits, self.model)]
            self.seen = self._seen(run, logits, targets)
            self.past = judge(run, self.candidates)
            self.candidates = logits + [one for one in self.candidates if one.inside]

    def renamed(self, renaming: Renaming) -> list[Echo] | None:
        """What a renaming does to every candidate; None where the loss does not run on it as it did."""
        with suppress(LookupError, UsageError), self._run(renaming.of(self.batch)) as run:
            logits = self.candidates[: len(self.seen)]
            again = self._seen(run, logits, run.targets(logits, self.model))
            if all(len(a.target) == len(b.target) for a, b in zip(self.seen, again, strict=True)):
                return [
                    _echo(a, b, one.made.value.dtype)
                    for a, b, one in zip(self.seen, again, self.candidates, strict=False)
                ]
        return None

    def _seen(self, run: Run, candidates: Sequence[Candidate], targets: Sequence[Tensor]) -> list[Seen]:
        return [
            Seen(target, self._free(target), _mark(run.same(one)))
            for one, target in zip(candidates, targets, strict=True)
        ]

    def _free(self, target: Tensor) -> Tensor:
        trained = target != IGNORE_INDEX
        free = trained & ~torch.isin(target, torch.tensor(sorted(self.kept), dtype=target.dtype))
        return free if bool(free.any()) else trained

    @contextmanager
    def _run(self, batch: Batch) -> Iterator[Run]:
        tape = Tape(unwrapped(self.model), self.scales)
        try:
            with same_conditions(self.model):
                with torch.enable_grad(), tape:
                    loss = called(self.loss_fn, self.model, batch)
                yield Run(tape, loss)
        finally:
            tape.forget()


@contextmanager
def same_conditions(model: nn.Module) -> Iterator[None]:
    """The same random numbers for every run, and those of before afterwards."""
    with same_random_state(model), warnings.catch_warnings():
        seed_torch(model, 0)
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        yield


def called(loss_fn: Callable[[nn.Module, Any], Tensor], model: nn.Module, batch: Batch) -> Tensor:
    """The loss on a batch.

    Raises:
        UsageError: it raises, or returns no scalar with a gradient.
    """
    loss = answer_of("the loss function", loss_fn, model, copy_of(batch))
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(f"the loss function must return a scalar tensor, it returned {got}")
    if not loss.requires_grad:
        raise UsageError("the loss has no gradient: it is a constant, or was detached")
    return loss


def _mark(candidate: Candidate) -> Tensor:
    """(R,) a random projection of every row of logits."""
    rows = candidate.flat(candidate.made.value).float()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[-1], generator=generator).to(rows.device)
    marks = rows @ direction
    if not bool(marks.isfinite().all()):  # columns that the head masks
        marks = torch.nan_to_num(rows.clamp(-1e4, 1e4) @ direction)
    return marks.cpu()


def _echo(before: Seen, after: Seen, dtype: torch.dtype) -> Echo:
    both = before.free & (after.target != IGNORE_INDEX)
    targets = both & (before.target != after.target)
    spread = float(before.mark.std(correction=0)) + 1e-12
    logits = (before.mark - after.mark).abs() > ROUNDING.get(dtype, COARSE) * spread
    return Echo(targets, logits, int(targets.sum()) / max(int(both.sum()), 1))
