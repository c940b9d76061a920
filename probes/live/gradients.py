"""Hooks on logits and hidden states: each gradient goes to the forward that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from alignment.sketch import sketch

from ..models.adapter import Head
from .chosen import losses_of
from .forwards import Forward
from .head_calls import Call, grade
from .past_heads import read_past_heads
from .teachers import Teachers

__all__ = ["Gradients"]


class Gradients:
    """Reads the gradients of a run as they come.

    Args:
        safely: what a hook is wrapped in, so that nothing it raises reaches the script.
        tick: the next number in the watcher's count of events.
        scale: what the loss is multiplied by before its backward.
        teachers: logits that were made beside it.

    Attributes:
        scales: loss scales that were divided out.
    """

    def __init__(
        self,
        safely: Callable[[Callable[..., None]], Any],
        tick: Callable[[], int],
        scale: Callable[[], float],
        teachers: Teachers,
    ) -> None:
        self._safely, self._tick, self._scale, self._teachers = safely, tick, scale, teachers
        self.scales: set[float] = set()

    def note_call(self, forward: Forward, head: Head, inputs: Any, output: Tensor) -> None:
        """A head was called."""
        call = forward.note_call(head, inputs if isinstance(inputs, Tensor) else None, output)
        if call is not None:
            self._read_at(output, forward, call, "head")
        else:  # nobody can read it, which is not that there is none
            output.register_hook(self._safely(lambda grad: self._grade(forward, grad)))

    def note_outputs(self, forward: Forward, outputs: Any) -> None:
        """Logits as the script sees them, where the model casts, scales or caps them after its head."""
        given = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple) else ()
        for logits in given:
            if not isinstance(logits, Tensor) or not logits.requires_grad:
                continue
            for call in forward.calls:
                same, address, _ = call.output
                if _lies_alike(logits, call) and id(logits) != same and logits.data_ptr() != address:
                    self._read_at(logits, forward, call, "later")

    def read_hidden(self, forward: Forward, made: Tensor) -> None:
        """Read what comes back to the body's output past every head."""
        hidden = made.detach()

        def seen(grad: Tensor) -> None:
            self._grade(forward, grad)
            read_past_heads(forward, grad, hidden, self._scale())

        made.register_hook(self._safely(seen))

    def _read_at(self, logits: Tensor, forward: Forward, call: Call, place: str) -> None:
        shape = call.output[2]  # a model may give codebooks a dimension of their own afterwards
        rows = sketch(call.head.rows(logits.reshape(shape)))
        call.finite &= rows.finite
        if call.rows is not None and call.head.books == 1:
            call.losses = losses_of(logits, rows, forward.ids_of(call.head), call.rows)
        lesson = self._teachers.lesson(forward, call, logits, rows)

        def seen(grad: Tensor) -> None:
            self._grade(forward, grad)
            mine = call.head.rows(grad.reshape(shape))
            if place == "later" or not call.readings.get("later"):  # nearer to the loss is more exact
                call.take(place, grade(mine, rows, self._scale()))
            if lesson is not None:
                call.learn(place, lesson.offsets(mine))

        logits.register_hook(self._safely(seen))

    def _grade(self, forward: Forward, grad: Tensor) -> None:
        """A gradient has arrived."""
        forward.graded = forward.graded or self._tick()
        forward.half |= grad.dtype in (torch.float16, torch.bfloat16)
        self.scales.add(self._scale())


def _lies_alike(logits: Tensor, call: Call) -> bool:
    """Whether they may be what a head gave, in its order: codebooks may have an axis of their own, but not go first."""
    shape = call.output[2]
    if logits.numel() != math.prod(shape):
        return False
    return logits.shape[-1] == shape[-1] or logits.shape[: len(shape) - 1] == shape[:-1]
