"""One run of the loss: what its heads gave in its own forward, row by row, and how far that lies from another run.

Nothing of the model is stood in for: masks, caches and position ids are those that the loss makes. No parameter asks
for a gradient, so that none costs memory; a head that is called where the loss has gradients off (a reference, a
teacher) is no trained one and left out.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..host.preserve import copy_of, preserved, same_random_state
from ..host.sharded import loss_context
from ..models.adapter import Batch
from .calls import BeyondError, Call, NotReplayedError, Run, Scene
from .perturbation import row_changes
from .recorder import Recorder

__all__ = ["run_loss"]


def run_loss(
    scene: Scene, batch: Batch, base: Run | None = None, *, gradients: bool = False, rows_only: bool = False
) -> Run:
    """Run the loss once, on the random state that there is, and leave no trace.

    Args:
        scene: the loss and its model.
        batch: what it is given.
        base: the run to compare with, as the rows come.
        gradients: hand the loss the logits of ``base`` in place of its own (its own in the first run), and keep its
            gradient there: what a row is trained towards must not be mistaken for what it has read.
        rows_only: compare what linear heads read. Their product, the dearest step of a small model, is then left out:
            the loss goes on with the logits of ``base``.

    Raises:
        NotReplayedError: the loss raises, or calls its heads otherwise than in ``base``.
    """
    recorder = Recorder(scene, base, gradients=gradients, rows_only=rows_only)
    with preserved(scene.model), same_random_state(), torch.enable_grad(), warnings.catch_warnings(), recorder:
        warnings.simplefilter("ignore")
        for parameter in scene.model.parameters():
            parameter.requires_grad_(requires_grad=False)
        recorder.follow(batch)
        try:
            loss = scene.loss_fn(scene.model, copy_of(batch))
        except (Exception, SystemExit) as error:
            raise BeyondError(f"run again, the loss raises {type(error).__name__}: {error}") from error
        if gradients:
            recorder.is_backward = True
            _differentiate(recorder.run, loss, scene.model)
            for call in recorder.run.calls:  # a kernel of one's own on a GPU counts no versions
                call.written = call.handed is None or call.handed.is_cuda or call.handed._version > 0  # noqa: SLF001
                call.handed = None
    run = recorder.run
    _add_bodies(run, scene, base)
    if base is not None and not run.otherwise and len(run.calls) != len(base.calls):
        run.otherwise = f"its heads are called {len(run.calls)} times, and {len(base.calls)} times before"
    if run.otherwise:
        raise NotReplayedError(f"with other tokens the loss runs otherwise: {run.otherwise}")
    return run


def _differentiate(run: Run, loss: Any, model: nn.Module) -> None:
    leaves = [call.leaf for call in run.calls if call.leaf is not None]
    if not leaves or not isinstance(loss, Tensor) or not loss.requires_grad:
        return
    called = [call for call in run.calls if call.leaf is not None]
    try:
        with loss_context(loss, model):
            found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    except RuntimeError:  # what cannot be differentiated a second way tells nothing of its gradient
        return
    for call, gradient in zip(called, found, strict=True):
        if gradient is not None:
            call.gradient = call.head.rows(gradient)


def _add_bodies(run: Run, scene: Scene, base: Run | None) -> None:
    """Where a head is not called (a fused loss multiplies itself), the rows that it would have read tell as much."""
    called = {call.head.name for call in (run.calls if base is None else base.calls) if not call.whole}
    for head in scene.adapter.heads(scene.model, scene.view):
        if head.name in called or head.books > 1:
            continue
        for number, forward in enumerate(run.forwards):
            if forward.hidden is None:
                continue
            rows = forward.hidden.reshape(-1, forward.hidden.shape[-1])
            call = Call(head, rows, None, number, whole=True)
            if base is not None:
                before = base.calls[len(run.calls)] if len(run.calls) < len(base.calls) else None
                if before is None or before.values.shape != rows.shape:
                    run.otherwise = run.otherwise or "the model's body gives another number of rows"
                    return
                call.change, call.values = row_changes([before.values], [rows])[0], before.values
            run.calls.append(call)
