"""The tape of a first forward that is watched: what may be logits, wherever a script makes them, and what comes back.

Heads are parameters behind a product, slices of one layer, convolutions: no module need give a stream's logits. What
functions make of the model's parameters is noted, and what is made of that without new ones. No value is changed, and
nothing is held once the first backward has ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from alignment.recovery import read
from alignment.streams import IGNORE_INDEX

from ..finder.candidates import Candidate, scores_axis, settled, told
from ..finder.cooling import PRODUCTS
from ..finder.tape import DEPTH, Tape, is_wide, tensors_in
from ..host.modes import inserted, restacked

__all__ = ["FirstTape"]

#: Functions that look up rows of a table.
LOOKUPS = frozenset(("embedding", "embedding_bag"))


class FirstTape(Tape):
    """Notes what functions make while it is on torch's stack of modes, and reads the gradient that comes back to it.

    Args:
        model: whose modules and parameters give names.
        safely: what a hook is wrapped in, so that nothing it raises reaches the script.

    Attributes:
        embedded: integers that tables were asked for.
        targets: by its order, what each row of a tensor with the form of logits is trained on.
    """

    def __init__(self, model: nn.Module, safely: Callable[[Callable[..., None]], Any]) -> None:
        super().__init__(model, scales={})
        self.embedded: list[Tensor] = []
        self.targets: dict[int, Tensor] = {}
        self._axes: dict[int, int] = {}
        self._read: defaultdict[int, list[tuple[int, Tensor, Tensor]]] = defaultdict(list)
        self._safely, self._listens = safely, True
        self._called: Counter[str] = Counter()
        self._saw = safely(self._note_made)
        restacked(lambda stack: inserted(stack, self))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._listens and torch.is_grad_enabled():
            self._saw(getattr(func, "__name__", "?"), args, kwargs or {}, out)
        return out

    def called(self, path: str, output: Any) -> None:
        """A module was called, and gave this; what no function was seen to make is noted here."""
        if not self._listens:
            return
        self._called[path] += 1
        for one in tensors_in(output, 1):
            if is_wide(one) and one.dim() > 1 and id(one) not in self._entries:
                self._hear(one, path, ())
        self.gave(path, self._called[path], output)

    def ends(self) -> None:
        """Nothing more is noted."""
        self._listens = False

    def remove(self) -> None:
        """Leave torch's stack, and let go of every tensor."""
        self.ends()
        restacked(lambda stack: [mode for mode in stack if mode is not self])
        self.forget()

    def logits(self) -> list[Candidate]:
        """What has the form of logits, of which no others are made, and which feeds no others of them."""
        found = [Candidate(self.made[order], self._axes[order]) for order in sorted(self._axes)]
        return [one for one in settled(found) if not one.inside]

    # -- what is noted ---------------------------------------------------------------------------

    def _note_made(self, by: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        given = list(tensors_in((args, kwargs), DEPTH))
        if by in LOOKUPS:
            self.embedded += [one.detach().to("cpu", copy=True) for one in given[:1] if not one.is_floating_point()]
            return
        for one in tensors_in(out, 1):
            if is_wide(one) and self._is_worth(by, one, given):
                self._hear(one, by, given)

    def _is_worth(self, by: str, made: Tensor, given: Sequence[Tensor]) -> bool:
        """Whether it may be logits: a product of parameters, or what holds the numbers of one."""
        fixed = [self._is_fixed(one) for one in given if one.is_floating_point()]
        if by in PRODUCTS or all(fixed):
            return any(fixed)
        parents = (self._entries.get(id(one)) for one in given)
        return any(one is not None and one.value.numel() >= made.numel() for one in parents)

    def _hear(self, made: Tensor, by: str, given: Sequence[Tensor]) -> None:
        entry = self._note(made, by, given)
        if not given:
            entry.fixed = False
        if not entry.fixed:
            order = entry.order
            made.register_hook(self._safely(lambda grad: self._heard(order, grad)))

    def _heard(self, order: int, grad: Tensor) -> None:
        self._listens = False  # what is made from here on is made again (checkpointing)
        made = self.made[order] if order < len(self.made) else None
        if made is None or not made.is_intact or grad.shape != made.value.shape:
            return
        axis = scores_axis(made.value, grad)
        if axis is not None:
            one = Candidate(made, axis)
            self._axes[order] = axis
            self.targets[order] = self._targets(one, one.flat(grad)).cpu().reshape(one.rows)

    def _targets(self, one: Candidate, grad: Tensor) -> Tensor:
        """(R,) what each row of (R, V) is trained on; what a tensor is made of comes after it and is not read again."""
        target = _handed_on(self._read.pop(one.made.order, []), grad)
        if target is None:
            target = read(grad.float(), one.flat(one.made.value).float()).target
        rows = torch.nonzero(target != IGNORE_INDEX)[:, 0]
        for parent in one.made.parents:
            self._read[parent.order].append((one.made.order, target[rows], grad[rows, target[rows]]))
        return target


def _handed_on(parts: list[tuple[int, Tensor, Tensor]], grad: Tensor) -> Tensor | None:
    """(R,) what was told of tensors made of this one, if its rows are theirs in the order that they were made in.

    A hard target is the one entry of its sign: where that of each row is what was read there, no other row's is.
    """
    if not parts:
        return None
    rows = torch.nonzero(told(grad))[:, 0]
    _, targets, pulls = zip(*sorted(parts, key=itemgetter(0)), strict=True)
    target, pull = torch.cat(targets), torch.cat(pulls)
    if len(rows) != len(target) or int(target.max()) >= grad.shape[-1]:
        return None
    mine, least = grad[rows, target].float(), torch.finfo(grad.dtype).eps
    if not torch.allclose(mine, pull.float(), rtol=least, atol=0.0):
        return None
    return target.new_full((len(grad),), IGNORE_INDEX).index_put((rows,), target)
