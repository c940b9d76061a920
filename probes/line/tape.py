"""The tape: every operation of a loss that rows of logits or tokens of the batch go through, with its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .frames import Place
from .ledger import Ledger
from .nodes import BORN, Failed, Node, Root
from .operations import (
    LAID_OUT,
    LOSSES,
    PRODUCTS,
    SMALL,
    WHOLE,
    factor_of,
    gate_of,
    kept_values,
    laid_out,
    mask_of,
    may_be_tokens,
    rows_of_product,
    side_by_side,
    storage_length,
    takes_elements,
    tensors_of,
    written_to,
)
from .shadows import COPIES, MOVES, NONE, WRITES, broadcast, carried, moved, overwritten, reduced

__all__ = ["Tape"]


@dataclass(eq=False)
class Tape(Ledger, TorchDispatchMode):
    """Records, for the length of a ``with`` block, what happens to numbered tensors.

    Attributes:
        failed: calls that raised, whether the loss went on or not.
        looked: nodes whose sizes were looked at, in order.
        paused: while operations are its own.
        bears: whether tokens that nobody has numbered begin where they are first moved, and what is looked up by them
            is nothing of theirs: in a whole script, whose model is run as it is.
        tables: where the weights of heads lie: rows that are multiplied by one are rows of logits.
        products: what was made so, where no head was called, and how many rows it has.
        asleep: in how many bodies of the model the loss is: what happens there is no move of rows.
    """

    failed: list[Failed] = field(default_factory=list)
    looked: list[tuple[Node, Place]] = field(default_factory=list)
    paused: bool = False
    asleep: int = 0
    bears: bool = False

    def __post_init__(self) -> None:
        TorchDispatchMode.__init__(self)
        super().__post_init__()
        self.tables: set[int] = set()
        self.products: list[tuple[Root, int]] = []

    @contextmanager
    def running(self) -> Iterator[Tape]:
        """Record; the frame that asks for it is where the code of others begins."""
        self.outermost = sys._getframe(2)  # noqa: SLF001 - behind contextlib's own
        try:
            with self, _Calls(self):
                yield self
        finally:
            self.outermost = None  # a frame holds the tape, and with it every tensor of the loss

    # -- what is seen ------------------------------------------------------------------------------

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or self.asleep or self.broken or _in_backward():
            return function(*args, **kwargs)
        given = self._safely(self._before, function, args, kwargs) or []
        out = function(*args, **kwargs)
        if given or self.tables:
            self._safely(self._after, function, args, kwargs, given, out)
        return out

    def _safely(self, own: Callable[..., Any], *words: Any) -> Any:
        """Work of ours inside the loss of others: what it raises ends the tape, and never the loss."""
        self.paused = True
        try:
            return own(*words)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the loss's
            self.broken = f"{type(error).__name__}: {error}"
            return None
        finally:
            self.paused = False

    def _before(self, function: Any, args: Any, kwargs: Any) -> list[Node]:
        """What an operation is given that is known, or is known from now on."""
        if self.bears:
            self._bear_moved(function, args)
        given = [node for one in tensors_of(args, kwargs) if (node := self._node_of(one)) is not None]
        written = function is torch.ops.aten.lift_fresh.default
        if written or (given and self._wants_birth(function, args)):
            born = args[0] if written else args[1]
            if may_be_tokens(born):
                self._bear(born)
                given = [node for one in tensors_of(args, kwargs) if (node := self.node(one)) is not None]
        return given

    def _after(self, function: Any, args: Any, kwargs: Any, given: Sequence[Node], out: Any) -> None:
        """Record what an operation has given, or has written."""
        if self.tables and not any(one.rows is not None for one in given) and self._by_table(function, args):
            count = out.numel() // out.shape[-1]
            rows = torch.arange(count, dtype=torch.int32, device=out.device)
            self.products.append((self.number_rows(out, rows.reshape(*out.shape[:-1], 1)), count))
        elif given and written_to(function, args) is not None:
            self._write(function, args, kwargs, given)
        elif given:
            self._record(function, args, kwargs, given, out)

    def _by_table(self, function: Any, args: Any) -> bool:
        """Whether rows are multiplied by the table of a head that is not called."""
        return function.__name__.partition(".")[0] in PRODUCTS and any(
            isinstance(one, Tensor) and one.untyped_storage().data_ptr() in self.tables for one in args
        )

    def _wants_birth(self, function: Any, args: Any) -> bool:
        """Whether rows meet whole numbers that nobody has seen before."""
        name = function.__name__.partition(".")[0]
        if name not in LOSSES or self.node(args[1]) is not None:
            return False
        scores = self.node(args[0])
        return scores is not None and scores.rows is not None

    def _bear_moved(self, function: Any, args: Any) -> None:
        """Number the whole numbers that an operation moves, where they are new."""
        name = function.__name__.partition(".")[0]
        if name not in MOVES | COPIES and name != "copy_":
            return
        first = args[1:2] if name == "copy_" else args[0] if isinstance(args[0], (list, tuple)) else args[:1]
        for one in first:
            if may_be_tokens(one) and 1 < one.numel() <= SMALL and self._node_of(one) is None:
                self._bear(one)

    def _bear(self, tensor: Tensor) -> None:
        self.number(tensor, BORN)
        self.nodes[-1].place = self._place()

    def _record(self, function: Any, args: Any, kwargs: Any, given: Sequence[Node], out: Any) -> None:
        name = function.__name__.partition(".")[0]
        made = [one for one in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(one, Tensor)]
        if not made:  # a number leaves the graph
            self.nodes.append(self._node(name, given, ()))
            return
        if name in LOSSES:
            self._record_loss(name, args, given, made)
            return
        channels = {key: self._shadows(key, function, name, args, kwargs, made) for key in ("rows", "tokens")}
        for index, tensor in enumerate(made):
            rows, tokens = channels["rows"][index], channels["tokens"][index]
            tokens = None if self.bears and rows is None and _is_wide(tensor) else tokens
            if self.bears and rows is None and tokens is None and not any(one.of_rows for one in given):
                continue  # the model's own
            node = self._node(name, given, tensor.shape, rows=rows, tokens=tokens)
            if tokens is not None:
                node.values = kept_values(tensor)
                node.whole = name in WHOLE and may_be_tokens(tensor) and any(one.whole for one in given)
            if rows is None and tokens is None and name not in MOVES | PRODUCTS:
                node.rows, node.tokens = side_by_side(given)  # a loss that is reduced at once
                node.paired = node.rows is not None
                rows = tokens = None
            both = [one for one in given if one.rows is not None and one.tokens is not None]
            if rows is not None and tokens is not None:
                if not both:
                    node.paired = name not in MOVES or name in {"index", "gather"}
                node.gate = gate_of(given) if both and name in {"mul", "where", "div"} else None
                node.mask = mask_of(args, self.node, tensor.shape) if both and name == "mul" else None
            node.factor = factor_of(name, args, self.node, tensor)
            self._note(tensor, node)

    def _record_loss(self, name: str, args: Any, given: Sequence[Node], made: Sequence[Tensor]) -> None:
        """Cross-entropy: each row of log-probabilities meets the target at its place."""
        scores, target = self.node(args[0]), self.node(args[1])
        rows = None if scores is None else scores.rows
        if rows is not None:
            rows = rows.movedim(1, -1) if args[0].dim() > 1 and name == "nll_loss2d_forward" else rows
            rows = carried(rows)[..., 0] if rows.dim() > args[1].dim() else rows
        tokens = None if target is None else target.tokens
        node = self._node(name, given, made[0].shape, rows=rows, tokens=tokens, values=kept_values(args[1]), whole=True)
        node.paired = rows is not None and tokens is not None
        if len(made) > 1 and made[0].dim() == 0 and args[3] == 1:
            node.factor = 1 / max(float(made[1]), 1e-30)
        self._note(made[0], node)

    def _shadows(
        self, key: str, function: Any, name: str, args: Any, kwargs: Any, made: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The shadows of one kind of what a function gave."""
        mine = {
            id(one): shadow
            for one in tensors_of(args, kwargs)
            if (node := self.node(one)) is not None and (shadow := getattr(node, key)) is not None
        }
        nothing: list[Tensor | None] = [None] * len(made)
        if not mine:
            return nothing
        if self.bears and name == "embedding":
            return nothing
        if key == "tokens" and name in LAID_OUT | {"index", "gather"} and id(args[0]) not in mine:
            return [laid_out(name, args, mine, made[0])]
        mine = {
            number: shadow.expand(one.shape)
            for one in tensors_of(args, kwargs)
            if (shadow := mine.get(number := id(one))) is not None and broadcast(shadow, one.shape) is not None
        }
        first = next(iter(mine.values()), None)
        if first is None:
            return nothing
        if name in COPIES and made[0].shape == first.shape:
            return [first]
        if name in MOVES:
            return moved(function, args, kwargs, mine, made) if takes_elements(args, mine) else nothing
        if name in PRODUCTS:
            return [rows_of_product(args, mine, made[0])]
        if torch.Tag.pointwise in function.tags:
            return [broadcast(first, one.shape) for one in made]
        return [first if one.shape == first.shape else reduced(first, one.shape) for one in made]

    # -- what is written into ------------------------------------------------------------------------

    def _write(self, function: Any, args: Any, kwargs: Any, given: Sequence[Node]) -> None:
        """An operation in place: every tensor of the same memory has new elements now."""
        name, target = function.__name__.partition(".")[0], args[0]
        if name not in WRITES:
            self._write_each(name, target, args, given)
            return
        laid = laid_out(name, args, self._tokens_of(args, kwargs), target) if name == "scatter_" else None
        if laid is not None:
            self._note(target, self._node(name, given, target.shape, tokens=laid))
            return
        known = self._storages.get(target.untyped_storage().data_ptr(), [])
        if not any(one is target for one in known):
            before = self.node(target)
            wide = target.numel() > SMALL or (before is not None and before.rows is not None and before.tokens is None)
            if wide or not self._tokens_of(args, kwargs):  # logits hold no tokens, wherever they are written into
                self._note(target, self._node(name, given, target.shape))
                return
            known = [target, *known]
        flat = torch.full((storage_length(target),), NONE, dtype=torch.long, device=target.device)
        for one in known:
            node = self.node(one)
            if node is not None and node.tokens is not None:
                flat.as_strided(one.shape, one.stride(), one.storage_offset()).copy_(node.tokens)
        mine = self._tokens_of(args, kwargs)
        mine[id(target)] = flat.as_strided(target.shape, target.stride(), target.storage_offset())
        overwritten(function, args, kwargs, mine)
        parents = list(given)
        for one in known:
            before = self.node(one)
            above = [*([before] if before is not None else []), *parents]
            tokens = flat.as_strided(one.shape, one.stride(), one.storage_offset()).clone()
            whole = may_be_tokens(one) and any(node.whole for node in above)
            self._note(one, self._node(name, above, one.shape, tokens=tokens, values=kept_values(one), whole=whole))
        mine_node = self.node(target)
        assert mine_node is not None
        self._written[target.untyped_storage().data_ptr()] = (target, flat, mine_node)
        self._hold(target, flat)

    def _write_each(self, name: str, target: Tensor, args: Any, given: Sequence[Node]) -> None:
        before = self.node(target)
        node = self._node(name, given, target.shape)
        if before is not None:
            node.rows, node.tokens = before.rows, before.tokens
        else:
            node.rows = next((one.rows for one in given if one.rows is not None and one.shape == node.shape), None)
            node.tokens = next(
                (one.tokens for one in given if one.tokens is not None and one.shape == node.shape), None
            )
        if node.tokens is not None:
            node.values = kept_values(target)
            node.whole = before is not None and before.whole
        node.factor = factor_of(name.rstrip("_"), args, self.node, target)
        if node.rows is not None and node.tokens is not None and name in {"mul_", "div_"}:
            node.gate = gate_of(given)
        self._note(target, node)

    def _tokens_of(self, args: Any, kwargs: Any) -> dict[int, Tensor]:
        return {
            id(one): node.tokens.expand(one.shape)
            for one in tensors_of(args, kwargs)
            if (node := self.node(one)) is not None and node.tokens is not None
        }


def _is_wide(tensor: Tensor) -> bool:
    """Whether it is more than a mask: a model's activations."""
    return tensor.is_floating_point() and tensor.dim() > 2


def _in_backward() -> bool:
    """Whether a backward is running: what it computes is no part of the way to the loss."""
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - the only one who knows


class _Calls(TorchFunctionMode):
    """Notes calls that raise, and looks at sizes: what never becomes an operation."""

    LOOKS = frozenset({torch.Tensor.shape.__get__, torch.Tensor.size, torch.Tensor.numel, torch.Tensor.__len__})

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tape = self.tape
        try:
            out = function(*args, **kwargs)
        except Exception as error:  # noted, and raised again
            given = tuple(node for one in tensors_of(args, kwargs) if (node := tape.node(one)) is not None)
            if given and not tape.paused:
                tape.failed.append(Failed(tape._place(), given, type(error).__name__))  # noqa: SLF001 - its own part
            raise
        if function in self.LOOKS and (node := tape.node(args[0])) is not None and not tape.paused:
            tape.looked.append((node, tape._place()))  # noqa: SLF001
        return out
