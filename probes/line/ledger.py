"""The ledger of a tape: the numbers of rows and tokens, the nodes in order, and which node gave a tensor.

A loss that holds its logits chunk by chunk must not be held whole by what follows it: the ledger keeps no tensor of
the loss alive, but for small ones that are written into, and what it keeps beside them has a bound.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .frames import Place, where
from .nodes import BORN, Node, Root
from .operations import SMALL, kept_values, may_be_tokens
from .shadows import NONE

__all__ = ["Ledger"]

#: Bytes that a ledger may hold of any loss.
ROOM = 256 << 20


@dataclass(eq=False)
class Ledger:
    """What is known of numbered tensors, and of what was made of them.

    Attributes:
        nodes: in order.
        roots: of all numbers, in order.
        outermost: the frame where the code of others begins.
        broken: why nothing more is recorded; empty while it is.
        room: bytes that may be held: as many as fit beside a loss that holds the largest numbered tensor itself.
    """

    nodes: list[Node] = field(default_factory=list)
    roots: list[Root] = field(default_factory=list)
    broken: str = ""

    def __post_init__(self) -> None:
        self.outermost: Any = None
        self._known: dict[int, tuple[weakref.ref[Tensor], Node]] = {}
        self._storages: dict[int, list[Tensor]] = {}
        self._written: dict[int, tuple[Tensor, Tensor, Node]] = {}
        self._held: dict[int, int] = {}
        self._taken, self.room = 0, ROOM
        self._next = 0

    def number(self, tensor: Tensor, name: str) -> Root:
        """Give every element of a tensor of the batch a number."""
        root = Root(name, self._next, tuple(tensor.shape))
        codes = torch.arange(self._next, self._next + tensor.numel(), device=tensor.device).reshape(tensor.shape)
        self._begin(tensor, root, tokens=codes, values=kept_values(tensor), whole=may_be_tokens(tensor))
        return root

    def number_rows(self, tensor: Tensor, codes: Tensor, above: Tensor | None = None) -> Root:
        """Give rows of logits or of hidden states numbers, the root's first and on.

        Args:
            tensor: that holds them.
            codes: (.., 1) or of its shape, which row each element belongs to; -1 of none.
            above: what a head has read.
        """
        root = Root("", self._next, tuple(tensor.shape))
        rows = torch.where(codes >= 0, codes + self._next, NONE).expand(tensor.shape)
        read = self.node(above)
        self._begin(tensor, root, rows=rows, parents=() if read is None else (read,))
        self.nodes[-1].place = self._place()
        return root

    def _begin(self, tensor: Tensor, root: Root, **more: Any) -> None:
        self._next += max(tensor.numel(), 1)
        self.roots.append(root)
        more.setdefault("parents", ())
        self.room = max(self.room, 2 * tensor.numel() * tensor.element_size())
        self._note(tensor, Node(len(self.nodes), "", Place(None, None), shape=tuple(tensor.shape), **more))

    def root_of(self, code: int) -> Root | None:
        """The root that a number belongs to."""
        return next((one for one in reversed(self.roots) if 0 <= one.first <= code), None)

    def node(self, tensor: Any) -> Node | None:
        """The node that gave a tensor; None where nothing is known of it."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def _node_of(self, tensor: Tensor) -> Node | None:
        """The same; also of a tensor that was only ever written into, through another of the same memory."""
        node = self.node(tensor)
        if node is not None or not self._written or tensor.layout != torch.strided:
            return node
        written = self._written.get(tensor.untyped_storage().data_ptr())
        if written is None or written[0].dtype != tensor.dtype:
            return None
        tokens = written[1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).clone()
        by = written[2]
        node = Node(len(self.nodes), by.name, by.place, (by, *by.parents), tuple(tensor.shape), tokens=tokens)
        node.values, node.whole = kept_values(tensor), by.whole
        self._note(tensor, node)
        return node

    def _note(self, tensor: Tensor, node: Node) -> None:
        self._number_new(node)
        self.nodes.append(node)
        self._known[id(tensor)] = (weakref.ref(tensor), node)  # an identity may be given to another later
        self._hold(node.rows, node.tokens, node.values, node.mask)
        if node.tokens is not None and tensor.numel() <= SMALL and tensor.layout == torch.strided:
            mine = self._storages.setdefault(tensor.untyped_storage().data_ptr(), [])
            if not any(one is tensor for one in mine):
                mine.append(tensor)
                self._hold(tensor)

    def _hold(self, *kept: Tensor | None) -> None:
        """Count what is kept from now on, each memory once; what is more than there is room for ends the record."""
        for one in kept:
            if one is not None and one.layout == torch.strided:
                memory = one.untyped_storage()
                self._taken += memory.nbytes() - self._held.get(memory.data_ptr(), 0)
                self._held[memory.data_ptr()] = memory.nbytes()
        if self._taken > self.room and not self.broken:
            self.broken = f"what it does with its logits takes more than {self.room >> 20} MB to follow"

    def _number_new(self, node: Node) -> None:
        """Tokens that come from nowhere, as an id that is filled in, begin here."""
        tokens, values = node.tokens, node.values
        if not node.whole or tokens is None or values is None or tokens.shape != values.shape:
            return
        new = (tokens < 0) & (values >= 0)
        if bool(new.any()):
            self.roots.append(Root(BORN, self._next, node.shape))
            node.tokens = tokens.clone()
            node.tokens[new] = torch.arange(self._next, self._next + int(new.sum()), device=tokens.device)
            self._next += int(new.sum())

    def _place(self) -> Place:
        return where(self.outermost)

    def _node(self, name: str, given: Sequence[Node], shape: Sequence[int], **more: Any) -> Node:
        unique = tuple(dict.fromkeys(given))
        return Node(len(self.nodes), name, self._place(), unique, tuple(shape), grad=torch.is_grad_enabled(), **more)
