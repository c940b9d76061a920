"""A model that no adapter knows, in its first step: which of its modules give logits, and of which of its inputs.

Nothing can be renamed in a script that is watched. A stream is only taken where its live gradient names its targets,
these stand in one sequence of integers that the model embeds, and in no other; else nothing of the model is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment.recovery import read
from alignment.streams import IGNORE_INDEX

from ..errors import UsageError
from ..finder.adapter import FoundAdapter
from ..finder.candidates import has_form, nodes_above
from ..finder.found import Discovery, Found, shaped
from ..finder.names import named
from ..finder.own_books import of_their_own
from ..finder.places import match
from ..finder.renaming import codebook_axis, integers
from ..finder.tape import LEAST_WIDTH
from ..host.forward_patch import bound_arguments
from ..models.adapter import Batch
from ..models.declaration import Declaration, HeadPlace
from ..models.modules import unwrapped
from ..models.place import Place
from ..models.token_ids import vocabularies
from .forwards import kept

__all__ = ["Search"]

#: This part of the targets must stand where one sequence says,
EXPLAINED = 0.9
#: no other sequence may explain this part of them,
DOUBT = 0.5
#: and they must be at least so many, and so many different ones: else it may be chance.
LEAST_ROWS, LEAST_TOKENS = 8, 4


@dataclass(frozen=True)
class _Given:
    """What a module gave in one call, in all if None, and what came back to it: (B, T') targets of its rows."""

    path: str
    call: int | None
    node: Any
    shape: tuple[int, ...]
    target: Tensor


class Search:
    """Notes what the modules of a model give in its first forward, and what its backward brings back.

    Args:
        root: the module that the script calls.
        safely: what a hook is wrapped in.

    Attributes:
        root: the same.
        reason: why its streams are not clear; empty before, and where they are.
    """

    def __init__(self, root: nn.Module, safely: Callable[[Callable[..., None]], Any]) -> None:
        self.root, self.reason = root, ""
        self._inner = unwrapped(root)
        self._safely = safely
        self._names = {module: path for path, module in self._inner.named_modules() if path}
        self._sizes = {size for size in vocabularies(self._inner) if size > 2}
        self._calls: Counter[str] = Counter()
        self._held: set[Any] = set()
        self._embedded: list[Tensor] = []
        self._given: dict[int, _Given] = {}
        self._received: Batch | None = None
        self._over = False

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is worth it: it embeds integers, and is trained."""
        parts = list(module.modules())
        return any(isinstance(one, nn.Embedding) and one.weight.requires_grad for one in parts) and len(parts) > 2

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module was called."""
        if module is self._inner:
            self._over |= self._received is not None  # the second forward is not looked at
            self._received = self._received or {
                key: kept(value) for key, value in bound_arguments(module, args, kwargs).items()
            }
        path = self._names.get(module)
        if path is None or self._over:
            return
        if isinstance(module, nn.Embedding) and args and isinstance(args[0], Tensor):
            self._embedded.append(args[0].detach().to("cpu", copy=True))
        elif (
            isinstance(output, Tensor)
            and output.requires_grad
            and output.dim() > 1
            and output.grad_fn not in self._held
        ):
            call, self._calls[path] = self._calls[path], self._calls[path] + 1
            if output.shape[-1] >= LEAST_WIDTH:
                self._held.add(output.grad_fn)  # a module inside of it gave the same
                self._watch(path, call, output)

    def _watch(self, path: str, call: int, output: Tensor) -> None:
        value, version, node = output.detach(), output._version, output.grad_fn  # noqa: SLF001 - its only name
        order = len(self._held)

        def seen(grad: Tensor) -> None:
            width = value.shape[-1]
            rows, back = value.reshape(-1, width), grad.reshape(-1, width)
            if value._version == version and has_form(rows, back):  # noqa: SLF001
                target = read(back.float(), rows.float()).target.cpu().reshape(value.shape[:-1])
                self._given[order] = _Given(path, call, node, tuple(value.shape), target)

        output.register_hook(self._safely(seen))

    def adapter(self) -> FoundAdapter | None:
        """A backward has ended: the model with its streams, if all that has the form of logits is clear.

        ``reason`` says what is not.
        """
        logits = list(self._joined(list(self._logits())))
        if not logits or self._received is None:
            return None
        found: list[Found] = []
        notes: list[str] = []
        for one in logits:
            stream = self._stream(one)
            if stream is None and one.shape[-1] not in self._sizes:
                notes.append(f"also trained: {shaped(one.path, one.shape)}: a choice among {one.shape[-1]}")
            elif stream is None:
                self.reason = (
                    f"{shaped(one.path, one.shape)} has the gradient of a choice among tokens, and which of the inputs "
                    "they are is not clear: declare its streams (--streams FILE)"
                )
                return None
            else:
                found.append(stream)
        if not found:
            return None
        try:
            whose = named(of_their_own(found, self._inner, self._received))
            return FoundAdapter(self.root, Discovery(whose, notes=tuple(notes)), self._received)
        except UsageError as error:
            self.reason = str(error)
            return None

    def _logits(self) -> Iterator[_Given]:
        """What has the form of logits, and neither feeds others of them nor is made of them."""
        given = [self._given[order] for order in sorted(self._given)]
        for one in given:
            others = [other for other in given if other is not one]
            if one.node not in nodes_above([other.node for other in others]):
                yield one

    def _joined(self, logits: Sequence[_Given]) -> Iterator[_Given]:
        """The same, calls of one head on parts of the rows (chunks) as one."""
        for path in dict.fromkeys(one.path for one in logits):
            mine = [one for one in logits if one.path == path]
            if len(mine) > 1 and self._are_chunks(mine):
                target = torch.cat([one.target for one in mine], 1)
                yield replace(mine[0], call=None, shape=(*target.shape, mine[0].shape[-1]), target=target)
            else:
                yield from mine

    def _are_chunks(self, calls: Sequence[_Given]) -> bool:
        """Whether calls have as many rows together as a sequence of integers that the model was given has."""
        if any(one.target.dim() != 2 or len(one.target) != len(calls[0].target) for one in calls):
            return False
        together = (len(calls[0].target), sum(one.target.shape[1] for one in calls))
        return any(ids.shape == together for _, ids in self._sequences())

    # -- which inputs its targets are --------------------------------------------------------------

    def _stream(self, one: _Given) -> Found | None:
        trained = one.target[one.target != IGNORE_INDEX]
        if len(trained) < LEAST_ROWS or len(torch.unique(trained)) < LEAST_TOKENS:
            return None
        sequences = list(self._distinct())
        as_it_is = any(self._is_given(ids) for _, ids in sequences)  # labels are its tokens too, one row on
        reads = self._is_given if as_it_is else self._is_read
        explained = [(place, match(one.target, ids), reads(ids)) for place, ids in sequences]
        read_ones = [(place, told) for place, told, is_read in explained if is_read and told.share >= EXPLAINED]
        doubtful = [place for place, told, is_read in explained if is_read and told.share >= DOUBT]
        if len(read_ones) != 1 or len(doubtful) != 1 or self._received is None:
            return None
        ids, told = read_ones[0]
        shape = ids.of(self._received).shape
        labels = [
            place
            for place, other, is_read in explained
            if not is_read and other.share >= EXPLAINED and place.of(self._received).shape == shape
        ]
        declaration = Declaration(
            name=str(ids),
            head=(HeadPlace(one.path),),
            ids=ids,
            labels=labels[0] if labels else None,
            call=one.call,
        )
        return Found(declaration, one.shape, one.shape[-1], len(trained), told.shift, {})

    def _sequences(self) -> Iterator[tuple[Place, Tensor]]:
        """(B, T) sequences of integers that the model was given, codebooks one by one."""
        for key, value in integers(self._received or {}).items():
            if value.dim() < 3:
                yield Place(key), value if value.dim() == 2 else value[None]
                continue
            axis = codebook_axis(value)
            for index in range(value.shape[axis]):
                yield Place(key, f"[{':, ' * axis}{index}]"), value.select(axis, index)

    def _distinct(self) -> Iterator[tuple[Place, Tensor]]:
        """The same, of equal ones the first: labels that are the ids themselves are no second sequence."""
        known: list[Tensor] = []
        for place, ids in self._sequences():
            if not any(torch.equal(ids.long(), one.long()) for one in known):
                known.append(ids)
                yield place, ids

    def _is_given(self, ids: Tensor) -> bool:
        """Whether an embedding was given these very integers."""
        mine = ids.reshape(-1).long()
        return any(torch.equal(one.reshape(-1).long(), mine) for one in self._embedded)

    def _is_read(self, ids: Tensor) -> bool:
        """Whether an embedding was given these integers, or all of them but a few at an end."""
        for one in self._embedded:
            given = one if one.dim() == 2 else one[None] if one.dim() == 1 else None
            if given is not None and given.shape[0] == ids.shape[0]:
                held = match(given.long(), ids.long())
                if held.share >= EXPLAINED and 2 * given.shape[1] >= ids.shape[1]:
                    return True
        return False
