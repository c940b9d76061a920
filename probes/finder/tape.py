"""The tape: every float tensor that a function makes while a loss runs, and what it was made of.

A tensor is noted where it arises, with the modules and parameters that took part in it. Nothing is changed but the
scale of logits that are saturated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..models.token_ids import vocabularies
from .cooling import cooling

__all__ = ["DEPTH", "Made", "Tape", "is_wide", "tensors_in"]

#: Fewer scores than these are no choice among tokens.
LEAST_WIDTH = 3
#: How deep the arguments of a function are looked into.
DEPTH = 3


@dataclass(eq=False)
class Made:
    """A float tensor with a gradient to come, as a function made it.

    Attributes:
        order: the how-manieth it is: the same in every run of one program.
        value: the tensor; what is written into it later makes a new entry.
        version: of the tensor when it was made.
        node: of autograd.
        by: the function's name.
        parents: what it was made of.
        parameters: paths of the parameters that it was made with; not of vectors: a bias moves scores, and makes none.
        fixed: whether it was made of parameters alone (a transposed weight).
        inside: path of the innermost module that was running.
        given: modules that gave exactly this tensor, innermost first, and the number of their call (from 1).
    """

    order: int
    value: Tensor
    version: int
    node: Any
    by: str
    parents: tuple[Made, ...]
    parameters: tuple[str, ...]
    fixed: bool
    inside: str
    given: list[tuple[str, int]] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        """Whether nothing was written into it since."""
        return self.value._version == self.version  # noqa: SLF001 - its only name

    def ancestors(self, along: Callable[[Made, Made], bool]) -> Iterator[Made]:
        """What it came from, nearest first, over steps (parent, child) that ``along`` allows."""
        seen, line = {id(self)}, [self]
        while line:
            child = line.pop(0)
            for parent in child.parents:
                if id(parent) not in seen and along(parent, child):
                    seen.add(id(parent))
                    line.append(parent)
                    yield parent


class Tape(TorchFunctionMode):
    """Notes what is made inside a ``with`` block.

    Args:
        model: whose modules and parameters give names.
        scales: what another run of the same program has scaled, by its order, to be scaled alike; None in the first.

    Attributes:
        made: every entry, in order.
        scales: what was scaled, and by how much.
        outputs: the shape that each module gave last, by its path.
    """

    def __init__(self, model: nn.Module, scales: Mapping[int, float] | None = None) -> None:
        super().__init__()
        self.made: list[Made] = []
        self.scales, self._again = dict(scales or {}), scales is not None
        self.outputs: dict[str, tuple[int, ...]] = {}
        self._model = model
        self._sizes = vocabularies(model)
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._entries: dict[int, Made] = {}
        self._running: list[str] = []
        self._calls: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Tape:
        for path, module in self._model.named_modules():
            if path:
                self._handles.append(module.register_forward_pre_hook(self._enter(path)))
                self._handles.append(module.register_forward_hook(self._leave(path), always_call=True))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and is_wide(out):
            out = self._cooled(out, getattr(func, "__name__", "?"))
        wide = [one for one in tensors_in(out, 1) if is_wide(one)]
        if wide:
            given = list(tensors_in((args, kwargs or {}), DEPTH))
            for one in wide:
                self._note(one, getattr(func, "__name__", "?"), given)
        return out

    def forget(self) -> None:
        """Let go of every tensor."""
        self.made.clear()
        self._entries.clear()

    def _cooled(self, made: Tensor, by: str) -> Tensor:
        scale = self.scales.get(len(self.made)) if self._again else cooling(by, made, self._sizes)
        if scale in (None, 1.0):
            return made
        self.scales[len(self.made)] = scale
        return made * scale

    def gave(self, path: str, call: int, output: Any) -> None:
        """A module gave this, in its ``call``-th call (from 1)."""
        for one in tensors_in(output, 1):
            self.outputs[path] = tuple(one.shape)
            entry = self._entries.get(id(one))
            if entry is not None:
                entry.given.append((path, call))

    def _note(self, value: Tensor, by: str, given: Sequence[Tensor]) -> Made:
        parents = tuple(entry for one in given if (entry := self._entries.get(id(one))) is not None)
        names = [self._names[id(one)] for one in given if id(one) in self._names and one.dim() > 1]
        names += [name for parent in parents if parent.fixed for name in parent.parameters]
        fixed = by != "embedding" and all(self._is_fixed(one) for one in given if one.is_floating_point())
        inside = self._running[-1] if self._running else ""
        entry = Made(
            len(self.made),
            value,
            value._version,  # noqa: SLF001 - its only name
            value.grad_fn,
            by,
            parents,
            tuple(dict.fromkeys(names)),
            fixed,
            inside,
        )
        self.made.append(entry)
        self._entries[id(value)] = entry
        return entry

    def _is_fixed(self, tensor: Tensor) -> bool:
        entry = self._entries.get(id(tensor))
        return id(tensor) in self._names or (entry is not None and entry.fixed)

    def _enter(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(path)
            self._calls[path] += 1

        return enter

    def _leave(self, path: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if path in self._running:
                while self._running.pop() != path:
                    pass
            self.gave(path, self._calls[path], output)

        return leave


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor may hold scores: a float with a gradient to come, and with enough entries along an axis."""
    return (
        tensor.is_floating_point()
        and tensor.requires_grad
        and tensor.grad_fn is not None
        and tensor.dim() >= 1
        and max(tensor.shape) >= LEAST_WIDTH
    )


def tensors_in(value: Any, depth: int) -> Iterator[Tensor]:
    """The tensors in a value, in lists, tuples and mappings down to a depth."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one, depth - 1)
    elif depth and isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one, depth - 1)
