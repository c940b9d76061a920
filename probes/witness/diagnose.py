"""Diagnosis of a loss that raised: were logits and labels of different lengths, and which slice did it?

Used after the fact only. The loss is run once more under a TorchFunctionMode that follows the head's
logits and the labels through slices and reshapes, up to the call that refused them together, or to the last
look at their sizes where the loss has a check of its own and raises before any such call.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from alignment import AlignmentError, Finding
from alignment.findings import finding

from ..host.preserve import copy_of, same_random_state
from ..models.adapter import Batch, View
from ..models.declared import DeclaredAdapter
from .capture import Capture, HeadCall
from .watched import Watched

__all__ = ["explain_exception", "explain_silence"]

#: Of a stream that no gradient reaches.
SILENT = frozenset(("LA205", "LA206"))
CUT_ALIKE = (
    "Cut logits and labels alike, by the next-token shift and nothing else, and raise where their lengths differ: a "
    "loss that is left out at every step trains nothing."
)

#: Calls that pair logits with labels, and where their two arguments stand.
WHOLE = {F.cross_entropy, F.nll_loss}
if hasattr(F, "linear_cross_entropy"):
    WHOLE.add(F.linear_cross_entropy)
LOSSES = WHOLE | {torch.gather, Tensor.gather}
#: Calls by which a loss looks at a size before it goes on.
LOOKS = {Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.__len__}
SLICES = {Tensor.__getitem__, torch.narrow, Tensor.narrow, torch.index_select, Tensor.index_select}


@dataclass(frozen=True)
class Trail:
    """Where a tensor comes from: the tensor it began as, and how it was cut on the way.

    ``length`` is that of a sample, until rows of all samples in one (``flat``) are cut.
    """

    root: str
    shape: tuple[int, ...]
    length: int
    cuts: tuple[str, ...] = ()
    flat: bool = False
    head: str = ""

    def cut(self, how: str, shape: tuple[int, ...], length: int) -> Trail:
        """The trail after a slice."""
        if length == self.length:
            return replace(self, shape=shape)
        return replace(self, shape=shape, length=length, cuts=(*self.cuts, f"`{how}` ({self.length} -> {length})"))

    @property
    def stream(self) -> str:
        """The modality it belongs to."""
        return "audio" if "audio" in self.root else "text"

    @property
    def is_labels(self) -> bool:
        """Whether it began in the batch, and not as what the model gave."""
        return "logits" not in self.root

    def __str__(self) -> str:
        return f"{self.root} were cut by {' and '.join(self.cuts)}" if self.cuts else f"{self.root} were not cut"


@dataclass(frozen=True)
class Pairing:
    """The two sides of the last loss call."""

    logits: Trail | None
    labels: Trail | None
    sizes: tuple[int, int]


class _Follow(TorchFunctionMode):
    """Follow known tensors through the functions that derive from them; ``calls`` of heads begin trails of logits."""

    def __init__(self, calls: Sequence[HeadCall], *, declared: bool) -> None:
        super().__init__()
        self._calls, self._known, self._declared = calls, 0, declared
        self.trails: dict[int, Trail] = {}
        self.alive: list[Tensor] = []  # ids stay unique only while their tensors live
        self.last: Pairing | None = None
        self.looks: list[tuple[Trail, int]] = []

    def know(self, tensor: Any, root: str, axis: int, head: str = "") -> None:
        """Begin a trail: ``axis`` is the one that counts positions; logits may be those of a declared ``head``."""
        if isinstance(tensor, Tensor) and tensor.dim() > axis:
            flat = axis == 0 and tensor.dim() == 2  # rows of all samples in one
            self.trails[id(tensor)] = Trail(root, tuple(tensor.shape), tensor.shape[axis], flat=flat, head=head)
            self.alive.append(tensor)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for call in self._calls[self._known :]:
            audio = call.head.books > 1 or (call.head.name.startswith("audio") and not self._declared)
            axis = 0 if len(call.shape) == 2 or audio else 1
            self.know(call.handed, "audio_logits" if audio else "logits", axis=axis, head=call.head.name)
        self._known = len(self._calls)
        if func in LOSSES:
            self._note_loss(func, args, kwargs)
        try:
            out = func(*args, **kwargs)
        except Exception:  # noted, and raised again
            self._note_refused(tuple(_tensors((args, kwargs))))
            raise
        if func in WHOLE:
            self.last = None  # it took both: their lengths agree
        first = args[0] if args else None
        if isinstance(first, (list, tuple)) and first and isinstance(first[0], Tensor):
            first = first[0]  # of those that are joined
        trail = self.trails.get(id(first)) if isinstance(first, Tensor) else None
        if trail is not None and func in LOOKS:
            self.looks.append((trail, sys._getframe(1).f_lineno))  # noqa: SLF001 - the line that looks
        if trail is not None and isinstance(out, Tensor) and out is not first:
            self.trails[id(out)] = self._derived(func, trail, args, out)
            self.alive.append(out)
        return out

    @staticmethod
    def _derived(func: Callable[..., Any], trail: Trail, args: Any, out: Tensor) -> Trail:
        shape = tuple(out.shape)
        if func in SLICES and len(shape) == len(trail.shape):
            if trail.length not in trail.shape and shape[0] != trail.shape[0]:
                trail = replace(trail, length=trail.shape[0], flat=True)
            axis = next((a for a, size in enumerate(trail.shape) if size == trail.length), 0)
            changed = [a for a, (old, new) in enumerate(zip(trail.shape, shape, strict=True)) if old != new]
            axis = changed[0] if changed and trail.shape[changed[0]] == trail.length else axis
            return trail.cut(_written(func, args), shape, shape[axis])
        return replace(trail, shape=shape)

    def _note_refused(self, given: Sequence[Tensor]) -> None:
        """Logits and what they were to meet, where a function refused them for their sizes."""
        trails = [(self.trails[id(one)], one.shape) for one in given if id(one) in self.trails and one.dim()]
        logits = next(((trail, shape) for trail, shape in trails if not trail.is_labels), None)
        labels = next(((trail, shape) for trail, shape in trails if trail.is_labels), None)
        if logits is None or labels is None or logits[0].stream != labels[0].stream:
            return
        sizes = [(left, right) for left, right in zip(logits[1], labels[1], strict=False) if left != right]
        if sizes and (self.last is None or self.last.sizes[0] == self.last.sizes[1]):
            self.last = Pairing(logits[0], labels[0], sizes[0])

    def _note_loss(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> None:
        scores = args[0] if args else kwargs.get("input")
        labels = (
            args[-1] if len(args) > 1 and isinstance(args[-1], Tensor) else kwargs.get("target", kwargs.get("index"))
        )
        if isinstance(args[1] if len(args) > 1 else None, Tensor):
            labels = args[1]
        if not isinstance(scores, Tensor) or not isinstance(labels, Tensor):
            return
        axis = 1 if scores.dim() > 2 and labels.dim() > 1 else 0
        at = axis + 1 if axis and func in WHOLE else axis  # these take (B, V, T)
        sizes = (
            scores.shape[at] if scores.dim() else 0,
            labels.shape[min(axis, labels.dim() - 1)] if labels.dim() else 0,
        )
        self.last = Pairing(self.trails.get(id(scores)), self.trails.get(id(labels)), sizes)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, (list, tuple)):
        for one in values:
            yield from _tensors(one)


def _written(func: Callable[..., Any], args: Any) -> str:
    """A slice as its author wrote it."""
    if func is not Tensor.__getitem__:
        return f"{getattr(func, '__name__', 'slice')}{tuple(args[1:])}"
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return f"[{', '.join(_part(part) for part in index)}]"


def _part(part: Any) -> str:
    if part is Ellipsis:
        return "..."
    if isinstance(part, slice):
        ends = [("" if end is None else str(end)) for end in (part.start, part.stop)]
        return ":".join(ends if part.step is None else [*ends, str(part.step)])
    return f"<{tuple(part.shape)} index>" if isinstance(part, Tensor) else repr(part)


def explain_exception(watched: Watched, batch: Batch, view: View, cause: Exception) -> Finding | None:
    """LA101 with both lengths and the slice behind them, if that is why the loss raised; else None."""
    if isinstance(cause, AlignmentError):
        return finding(cause.code, cause.stream, str(cause))
    follow, raised = _followed(watched, batch, view)
    if raised is not None and raised is not type(cause):
        return None
    pairing = follow.last or _own_check(follow.looks, cause)
    if pairing is None or pairing.sizes[0] == pairing.sizes[1]:
        return None
    return _length_mismatch(pairing)


def explain_silence(watched: Watched, batch: Batch, view: View, found: Sequence[Finding]) -> list[Finding]:
    """The findings; LA205 and LA206 with the lengths that the loss has compared, where it goes on without a stream."""
    if not any(one.code in SILENT for one in found):
        return list(found)
    follow, _ = _followed(watched, batch, view)
    skipped = _compared(follow.looks)
    if skipped is None:
        return list(found)
    logits, labels = skipped.logits, skipped.labels
    more = (
        f"the loss compares lengths, {skipped.sizes[0]} vs {skipped.sizes[1]}, and goes on without: {logits}, {labels}"
    )
    return [
        replace(one, message=f"{one.message}; {more}", fix=CUT_ALIKE) if one.code in SILENT else one for one in found
    ]


def _followed(watched: Watched, batch: Batch, view: View) -> tuple[_Follow, type[Exception] | None]:
    """One more run of the loss with logits and labels followed, and the kind of what it raises."""
    model, adapter = watched.model, watched.adapter
    capture = Capture(model, adapter, adapter.heads(model, view), withhold=watched.withhold)
    follow, batch = _Follow(capture.calls, declared=isinstance(adapter, DeclaredAdapter)), copy_of(batch)
    for key, tensor in batch.items():
        if isinstance(tensor, Tensor) and not tensor.is_floating_point():
            follow.know(tensor, key, axis=max(tensor.dim() - 1, 0))
    seen = adapter.inner(model).register_forward_hook(lambda _m, _a, out: _know_outputs(follow, out))
    try:
        with same_random_state(model), torch.enable_grad(), capture, follow:
            watched.loss_fn(model, batch)
    except Exception as error:  # noqa: BLE001 - whatever the user's loss raises is what is being explained
        return follow, type(error)
    finally:
        seen.remove()
    return follow, None


def _compared(looks: Sequence[tuple[Trail, int]]) -> Pairing | None:
    """Logits and labels of different lengths that the loss has looked at in one line."""
    for labels, here in reversed(looks):
        for logits, there in reversed(looks):
            same = labels.is_labels and not logits.is_labels and here == there
            if same and "label" in labels.root and logits.length != labels.length and (logits.cuts or labels.cuts):
                return Pairing(logits, labels, (logits.length, labels.length))
    return None


def _own_check(looks: Sequence[tuple[Trail, int]], cause: Exception) -> Pairing | None:
    """The logits and labels that a loss compared before it raised by itself: its message names both lengths.

    An assertion without a message names them where it looks at both in its own line.
    """
    numbers = {int(number) for number in re.findall(r"\d+", str(cause))}
    line = _line_of(cause) if isinstance(cause, AssertionError) and not str(cause) else None
    for labels, here in reversed(looks):
        for logits, there in reversed(looks):
            if not labels.is_labels or logits.is_labels or logits.stream != labels.stream:
                continue
            sizes, rows = (logits.length, labels.length), (logits.shape[0], labels.shape[0])
            told = any(left != right and numbers >= {left, right} for left, right in (sizes, rows))
            if sizes[0] != sizes[1] and (told or here == there == line):
                return Pairing(logits, labels, sizes)
    return None


def _line_of(error: Exception) -> int | None:
    """The line that raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_lineno


def _know_outputs(follow: _Follow, outputs: Any) -> None:
    follow.know(getattr(outputs, "logits", None), "logits", axis=1)
    follow.know(getattr(outputs, "audio_logits", None), "audio_logits", axis=0)
    follow.know(getattr(outputs, "expanded_labels", None), "expanded_labels", axis=1)


def _length_mismatch(pairing: Pairing) -> Finding:
    logits, labels = pairing.logits, pairing.labels
    stream = "audio" if any(t is not None and t.stream == "audio" for t in (logits, labels)) else "text"
    stream = logits.head if logits is not None and logits.head.startswith("audio[") else stream
    apart = logits is not None and labels is not None and not (logits.flat or labels.flat)
    if apart and logits.length != labels.length:
        left, right = logits.length, labels.length
        message = f"logits and labels of {stream} differ in length: {left} vs {right} per sample; {logits}, {labels}"
    else:
        left, right = pairing.sizes
        trails = "; ".join(str(trail) for trail in (logits, labels) if trail is not None)
        message = (
            f"logits and labels of {stream} differ in length: {left} vs {right} rows{'; ' if trails else ''}{trails}"
        )
    return finding("LA101", stream, message, count=abs(left - right))
