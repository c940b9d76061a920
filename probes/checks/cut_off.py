"""Parameters that are to be trained and are cut off: no gradient, though what is trained moves when they do (LA602).

That a gradient is missing is often right: a batch without images leaves a vision tower alone. So what has none is
moved, and the rows that are trained are looked at again. LoRA's two factors are moved together: beside a factor of
zeros the other moves nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignment import Finding, Supervision
from alignment.findings import finding
from alignment.wording import counted

from ..host.preserve import copy_of, preserved, same_random_state
from ..host.sharded import must_finish
from ..models.adapter import Batch
from ..models.codebooks import CodebookAdapter
from ..models.modules import peft_model
from ..models.placed import Places
from ..replay.calls import NotReplayedError, Run, Scene
from ..replay.given import rows_of, streams_of
from ..replay.run import run_loss
from ..witness.subject import Subject

__all__ = ["adapters_cut_off", "cut_off"]

#: How far a weight is moved at least, where it is all zeros.
LEAST = 0.02
BASIS = "gradients of the model's own backward"
FIX = (
    "Look for what ends the graph below them: a detach, torch.no_grad(), or a reentrant checkpoint whose input needs "
    "no gradient (call model.enable_input_require_grads(), or checkpoint with use_reentrant=False)."
)


def adapters_cut_off(subject: Subject) -> tuple[list[Finding], list[str]]:
    """LA602 of a model with adapters, after one backward of the loss through all of it; and notes.

    A model without is not looked at: its gradients may not fit where the logits' own do. Nor is a loss that trains
    nothing, of which more is said elsewhere.
    """
    model, seen = subject.model, subject.seen
    if peft_model(model) is None or not any(bool((one.trained | one.soft).any()) for one in seen.actual):
        return [], []
    trainable = [name for name, param in model.named_parameters() if param.requires_grad]
    with preserved(model), same_random_state(), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for param in model.parameters():
            param.grad = None
        try:
            subject.loss_fn(model, copy_of(subject.batch)).backward()
        except Exception as error:  # noqa: BLE001 - the user's loss may raise anything
            return [], [f"which adapters get a gradient was not seen: {type(error).__name__}: {error}"]
        silent = [name for name, param in model.named_parameters() if param.requires_grad and param.grad is None]
    return cut_off(subject.scene, subject.batch, seen.actual, silent, len(trainable))


def cut_off(
    scene: Scene, batch: Batch, told: Sequence[Supervision], silent: Sequence[str], trainable: int
) -> tuple[list[Finding], list[str]]:
    """LA602 where a trained row moves with parameters that have no gradient; else a note that none does.

    Args:
        scene: the loss, its model, and the streams of the batch.
        batch: that the loss is given.
        told: what is trained, per stream.
        silent: names of the parameters that no backward reached.
        trainable: how many there are of them and of those that one reached.
    """
    silent, notes = _without_codec(scene, silent)
    groups = _groups(scene.model, silent)
    if not groups or must_finish(scene.model):
        return [], notes
    many = counted(trainable, "trainable parameter")
    several = f"{len(silent)} of {many} {'has' if len(silent) == 1 else 'have'} no gradient"
    try:
        moves = _Moves(scene, batch, told)
        if not moves(list(groups.values())):
            return [], [*notes, f"{several}, first {silent[0]}, and no trained row depends on them in this batch"]
        first = _first(moves, list(groups.values()))
    except NotReplayedError as error:
        return [], [*notes, f"{several}, first {silent[0]}: not judged ({error})"]
    message = f"{several}, and the loss moves when they are moved, first {first[0]}: they are cut off and never trained"
    return [finding("LA602", "all", message, fix=FIX, count=len(silent), basis=BASIS)], notes


def _without_codec(scene: Scene, silent: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Names without those of a codec, by whose codes alone rows move with it; and a note of these."""
    codec = scene.adapter.codec(scene.model) if isinstance(scene.adapter, CodebookAdapter) else None
    own = set() if codec is None else {id(one) for one in codec.parameters()}
    made = {name for name, one in scene.model.named_parameters() if id(one) in own} & set(silent)
    if not made:
        return silent, []
    which = f"{counted(len(made), 'parameter')} of {type(codec).__name__}, which makes the codes"
    note = f"{which}, belong to no loss on them: leave them out of the optimizer, or freeze them"
    return [name for name in silent if name not in made], [note]


def _groups(model: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    """Names by what must be moved together: the parts of one adapter, else each for itself."""
    outer = peft_model(model)
    mark = f".{getattr(outer.base_model, 'prefix', 'lora_')}" if outer is not None else ".lora_"
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(mark)[0], []).append(name)
    return groups


class _Moves:
    """Whether any trained row moves with some parameters."""

    def __init__(self, scene: Scene, batch: Batch, told: Sequence[Supervision]) -> None:
        self.scene, self.batch = scene, batch
        self.trained = [one.trained | one.soft for one in told]
        self.base = run_loss(scene, batch)
        placing = Places(self.base.forwards, scene.model, scene.adapter, scene.view)
        self.rows = [rows_of(call, placing) for call in self.base.calls]
        self.noise = self._largest(run_loss(scene, batch, self.base))

    def __call__(self, groups: Sequence[Sequence[str]]) -> bool:
        names = {name for group in groups for name in group}
        chosen = {name: param for name, param in self.scene.model.named_parameters() if name in names}
        with _moved(chosen):
            return not self._largest(run_loss(self.scene, self.batch, self.base)) <= 2 * self.noise

    def _largest(self, run: Run) -> float:
        """By how much the logits of a trained row have changed at most."""
        largest = 0.0
        for call, rows in zip(run.calls, self.rows, strict=True):
            if call.change is None or rows is None:
                continue
            for offset, number in enumerate(streams_of(call)):
                change = call.change[offset :: call.books]
                at = rows[offset].to(change.device)
                used = (at >= 0) & self.trained[number].to(change.device)[at.clamp(min=0)]
                largest = max(largest, float(change[used].max()) if bool(used.any()) else 0.0)
        return largest


def _first(moves: _Moves, groups: list[list[str]]) -> list[str]:
    """The first of some groups, which together move a row, that does so with those before it; by halves."""
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moves(groups[low:middle]) else (middle, high)
    return groups[low]


@contextmanager
def _moved(chosen: Mapping[str, Tensor]) -> Iterator[None]:
    """Move parameters, and put back the same bits; no graph that holds them is told."""
    kept = {name: param.detach().clone() for name, param in chosen.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        for param in chosen.values():
            noise = torch.randn(param.shape, generator=generator).to(param)
            scale = max(float(param.detach().float().std(correction=0)), LEAST)
            param.data.add_(noise, alpha=scale)
        yield
    finally:
        for name, param in chosen.items():
            param.data.copy_(kept[name])
