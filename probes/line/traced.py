"""What the tape says of a loss: which row met which token, where, and whether its gradient says the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from alignment import Convention

from ..witness.witness import Witness
from .nodes import Failed, Node
from .shadows import carried
from .tape import Tape

__all__ = ["Meeting", "Traced", "values_of"]

#: Samples of one stream are numbered from here to the next stream's.
APART = 10**6


@dataclass(frozen=True, repr=False)
class Meeting:
    """A row of logits and a token that met: where, their numbers on the tape, and the token's value there."""

    node: Node
    row: int
    token: int
    value: int


@dataclass(repr=False)
class Traced:
    """What the tape says of a loss.

    Attributes:
        tape: of the run.
        seen: what the loss trains, read off its gradient.
        rows: which row of which stream each number of a row stands for.
        meetings: per stream and row, all that its logits met on the way to the loss.
        loss: the node of the loss; None where it is not known, as of a number.
        error: what the loss has raised; None where it ran.
        demands: per stream, (R,) int64, the number of the label at each row, -1 where none is known.
        names: keys of the batch that hold labels.
        convention: that is declared for labels, where the ids cannot tell.
        only: (R,) bool per stream, the rows that were run on the tape; empty: all.
        label_roots: first numbers of further tensors that hold labels.
        label_nodes: what a model was given as labels, where a script has made it of what else it was given.
        handed: by the first number of what a script has made, the key under which a model was given it;
            ``handed_nodes``: what it was given so.
        strides: by the first number of a tensor of tokens, how far apart in it what follows one another lies.
    """

    tape: Tape
    seen: Witness
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    meetings: dict[tuple[int, int], list[Meeting]] = field(default_factory=dict)
    loss: Node | None = None
    error: Exception | None = None
    demands: list[Tensor | None] = field(default_factory=list)
    names: tuple[str, ...] = ()
    convention: Convention = Convention.POSITION_ALIGNED
    only: list[Tensor] = field(default_factory=list)
    label_roots: set[int] = field(default_factory=set)
    label_nodes: set[Node] = field(default_factory=set)
    handed: dict[int, str] = field(default_factory=dict)
    handed_nodes: set[Node] = field(default_factory=set)
    strides: dict[int, int] = field(default_factory=dict)

    def meeting(self, stream: int, row: int, target: int) -> Meeting | None:
        """Where a row met the token that its gradient pulls it to; None where the tape has not seen that."""
        found = [one for one in self.meetings.get((stream, row), []) if one.value == target]
        return found[0] if found and len({one.token for one in found}) == 1 else None

    def place(self, first: int, rows: Tensor, stream: int, apart: int = 1) -> None:
        """Numbers ``first``, ``first + apart``, .. stand for these rows of a stream; -1 for none."""
        self.rows |= {first + index * apart: (stream, row) for index, row in enumerate(rows.tolist()) if row >= 0}

    def is_label(self, code: int) -> bool:
        """Whether the number of a token begins in a tensor of labels."""
        root = self.tape.root_of(code)
        return root is not None and (root.name in self.names or root.first in self.label_roots)

    def meet(self) -> None:
        """Gather what every row met, in operations that the loss comes from."""
        _meet(self)

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """(n,) numbers of rows in order, and (n, 2) the sample and the position of each."""
        codes = sorted(self.rows)
        streams = self.seen.view.streams
        lists = [(one.sample.tolist(), one.row.tolist()) for one in streams]
        places = [
            (number * APART + lists[number][0][row], lists[number][1][row])
            for number, row in (self.rows[code] for code in codes)
        ]
        return torch.tensor(codes), torch.tensor(places).reshape(-1, 2)

    def coordinates(self, codes: Tensor) -> Tensor:
        """(n, 2): the sample (of its stream) and the position of every row; no sample where it is none of the batch."""
        known, places = self.table
        codes = codes.cpu().long()
        if not len(known):
            return torch.stack([-codes, torch.zeros_like(codes)], -1)
        at = torch.searchsorted(known, codes).clamp(max=len(known) - 1)
        lost = torch.stack([-codes - 1, torch.zeros_like(codes)], -1)
        return torch.where((known[at] == codes)[:, None], places[at], lost)


def _meet(told: Traced) -> None:
    """Gather what every row met, in operations that the loss comes from."""
    nodes = set(told.tape.nodes) if told.loss is None else told.loss.above
    raised = [_pair(one) for one in told.tape.failed] if told.error is not None else []
    for node in [*told.tape.nodes, *(one for one in raised if one is not None)]:
        if not node.paired or (node not in nodes and node not in raised):
            continue
        assert node.rows is not None
        assert node.tokens is not None
        values = values_of(node)
        rows, tokens = _narrow(node.rows, node.tokens)
        for row, token in zip(rows.flatten().tolist(), tokens.flatten().tolist(), strict=True):
            at = told.rows.get(row)
            if at is None or token not in values:
                continue
            mine = told.meetings.setdefault(at, [])
            met = Meeting(node, row, token, values[token])
            if not any(one.node is node and one.token == token for one in mine):
                mine.append(met)


def _pair(failed: Failed) -> Node | None:
    """The node of a call that raised on logits and labels of one length; None where that is none."""
    rows = next((one for one in failed.given if "rows" in one.thin), None)
    tokens = next((one for one in failed.given if one.whole and "rows" not in one.thin), None)
    if rows is None or tokens is None or rows.thin["rows"].shape != tokens.thin["tokens"].shape:
        return None
    both = {"rows": rows.thin["rows"], "tokens": tokens.thin["tokens"]}
    return Node(tokens.number + 1, "raised", failed.place, (rows, tokens), tokens.shape, paired=True, **both)


def _narrow(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the dimension along which neither changes."""
    thin = carried(rows), carried(tokens)
    if thin[0].shape == thin[1].shape:
        return thin
    wide = torch.broadcast_tensors(rows, tokens)
    if wide[0].dim() and wide[0].shape[-1] > 1:  # one-hot: one number per row, but for the lanes of a table
        same = all(bool((one == one[..., :1]).all()) for one in wide)
        return (wide[0][..., :1], wide[1][..., :1]) if same else wide
    return wide


def values_of(node: Node) -> dict[int, int]:
    """The tokens that a node was given, by their numbers."""
    open_, seen = [node], {node}
    while open_:
        one = open_.pop(0)
        tokens, values = one.tokens, one.values
        if one.whole and tokens is not None and values is not None and tokens.shape == values.shape:
            return dict(zip(tokens.flatten().tolist(), values.flatten().tolist(), strict=True))
        fresh = [parent for parent in one.parents if parent.tokens is not None and parent not in seen]
        seen.update(fresh)
        open_ += sorted(fresh, key=lambda parent: parent.rows is not None)
    return {}
