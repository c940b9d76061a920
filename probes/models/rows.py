"""Rows: which position of the batch does each row of a head call stand for?

Trainers cut, gather, chunk and re-pad before the head. Content decides: hidden rows are found again
in the body's output, and received sequences in the batch by their ids.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from alignment import InputError, Stream

__all__ = ["FURTHEST", "align_streams", "head_rows", "match_rows", "row_keys", "rows_at", "rows_behind"]

#: Inputs that a trainer may put in front of a segment: a begin, or a few of them.
MOST_IN_FRONT = 8
#: Rows are numbered in pieces of at most this many elements.
KEY_ELEMENTS = 1 << 22
#: Of so many rows it is looked whether they keep their place; alike is a row whose cosine with another is so much, and
#: one that has moved is less like the row at its own place by so much.
ANCHORS, ALIKE, APART = 64, 0.95, 0.3
#: By so many rows the sequence of a module that predicts further ahead is shorter, at most.
FURTHEST = 8


def match_rows(inputs: Tensor, hidden: Tensor) -> Tensor:
    """(r,) int64: for each row of ``inputs`` (.., H) the row of ``hidden`` (.., H) it was taken from.

    Equal hidden rows (padding, samples that begin alike) are matched to those beside their neighbours, else in order.

    Raises:
        InputError: a row that is none of the body's rows.
    """
    width = hidden.shape[-1]
    flat, pool = inputs.reshape(-1, width), hidden.reshape(-1, width).to(inputs.dtype)
    if flat.shape == pool.shape and torch.equal(flat, pool):
        return torch.arange(len(flat), device=flat.device)
    places: dict[int, list[int]] = {}
    for index, key in enumerate(row_keys(pool).tolist()):
        places.setdefault(key, []).append(index)
    keys = row_keys(flat).tolist()
    if not places.keys() >= set(keys):
        raise InputError("the head was called on rows that are not the body's output: name the module that feeds it")
    return torch.tensor(_in_runs([places[key] for key in keys]), dtype=torch.long, device=flat.device)


def _in_runs(places: Sequence[Sequence[int]]) -> list[int]:
    """One of the places of each row, which ascend: beside that of the row after it, or before it, else in order."""
    out = [one[0] if len(one) == 1 else -1 for one in places]
    known = [after - at for at, after in pairwise(out) if at >= 0 and after >= 0]
    step = 1 if known.count(1) >= known.count(-1) else -1
    for neighbour, rows in ((1, range(len(out) - 2, -1, -1)), (-1, range(1, len(out)))):
        for row in rows:
            beside = out[row + neighbour] - neighbour * step
            if out[row] < 0 <= out[row + neighbour] and _is_among(beside, places[row]):
                out[row] = beside
    last = -1
    for row, mine in enumerate(places):
        if out[row] < 0:
            nth = bisect_right(mine, last)
            out[row] = mine[nth if nth < len(mine) else 0]
        last = out[row]
    return out


def _is_among(place: int, places: Sequence[int]) -> bool:
    nth = bisect_left(places, place)
    return nth < len(places) and places[nth] == place


def row_keys(rows: Tensor) -> Tensor:
    """(R,) int64: one number per row of (R, H), the same for the same bits: sorting wide rows would take seconds."""
    bits = rows.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[-1],), generator=generator).to(rows.device)
    step = max(1, KEY_ELEMENTS // rows.shape[-1])
    parts = [(part.long() * weights).sum(-1) for part in bits.split(step)]  # wraps around, in any order alike
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=rows.device)


def cut_rows(inputs: Tensor, hidden: Tensor) -> Tensor | None:
    """(r,) int64: the rows (B, T, H) of which a layer of the loss's own was given all but the last; None if it was not.

    So a module that predicts further ahead joins ``hidden[:, :-1]`` with the tokens after them (DeepSeek's MTP).
    """
    if inputs.dim() != 3 or hidden.dim() != 3 or len(inputs) != len(hidden):
        return None
    length, whole = inputs.shape[1], hidden.shape[1]
    if not 0 < whole - length <= FURTHEST or _is_reordered(inputs, hidden[:, :length]):
        return None
    return torch.arange(hidden.shape[:2].numel(), device=inputs.device).reshape(-1, whole)[:, :length].reshape(-1)


def head_rows(inputs: Tensor, hidden: Tensor, count: int, received: int, *, further: bool = False) -> Tensor:
    """(count,) int64: the received row that each row of a head call stands for.

    Args:
        inputs: (.., H), what the head read: ``count`` rows.
        hidden: (.., H), what the body gave.
        count: how many rows of logits the head gave.
        received: how many ids the model was given.
        further: whether the head stands beside the main one, or is called once more: its sequence may be cut.

    Raises:
        InputError: a model that lengthens its sequence, or a head that reads something else than the body's rows, or
            these in another order and through layers of the loss's own.
    """
    straight = torch.arange(count, device=inputs.device)
    given = hidden.numel() // max(hidden.shape[-1], 1)
    if given == received and inputs.shape[-1] == hidden.shape[-1]:
        try:
            return match_rows(inputs, hidden)
        except InputError:
            cut = cut_rows(inputs, hidden) if further else None
            if cut is not None and len(cut) == count:
                return cut
            if count != received or _is_reordered(inputs, hidden):
                raise
    elif count != received:
        raise InputError(
            f"the batch has {received} ids and the model's body {given} rows: it lengthens the sequence itself "
            "(placeholders expanded inside, virtual tokens), or is given embeddings in place of ids, so that no row "
            "can be placed; expand ids, labels and mask before the model"
        )
    return straight  # a head behind a projection or a scale of its own, one row per id


def _is_reordered(inputs: Tensor, hidden: Tensor) -> bool:
    """Whether rows that went through a layer (a norm, a scale) are like rows of the body at other places."""
    given, body = (_directions(rows) for rows in (inputs, hidden))
    some = torch.linspace(0, len(body) - 1, min(ANCHORS, len(body)), device=body.device).round().long()
    alike = given[some] @ body.T
    best, own = alike.amax(1), alike.gather(1, some[:, None])[:, 0]
    other = (best >= ALIKE) & (own < best - APART)
    return 8 * int(other.sum()) > len(some)  # where tokens repeat, many are like those at their own place, too


def _directions(rows: Tensor) -> Tensor:
    """(R, H): rows of length 1, without what they have in common."""
    flat = rows.reshape(-1, rows.shape[-1]).float()
    flat = flat - flat.mean(-1, keepdim=True)
    return torch.nn.functional.normalize(flat, dim=-1)


def rows_behind(reads: Sequence[Tensor], given: Tensor, count: int) -> Tensor | None:
    """(count,) int64: the rows of ``given`` that the rows of a head stand for, which layers of its own stand before.

    The last of ``reads``, what modules were called on since, that is cut out of ``given`` and has as many rows as the
    head tells; None without one.
    """
    for read in reversed(reads):
        if read.shape[-1] == given.shape[-1] and read.shape[:-1].numel() == count:
            with suppress(InputError):
                return match_rows(read, given)
    return None


def rows_at(positions: Tensor | None, received: Stream, batch: Stream) -> Tensor | None:
    """(R,) int64: for each row of ``received`` its row of ``batch``, by the positions that a forward was given.

    So a part of every sample is found that is not one piece of it: the first and the last of its parts (zigzag), or
    every second row (striped). A position counts columns, or tokens that are no padding; None where the ids say
    that it counts neither.

    Args:
        positions: (B, t) or (1, t), of the ids that the forward was given.
        received: those ids, (B, t) laid flat.
        batch: the ids of the whole batch, of as many samples.
    """
    if positions is None or positions.dim() != 2 or not 0 < len(received) < len(batch):
        return None
    samples = int(batch.sample.max()) + 1
    if int(received.sample.max()) + 1 != samples or len(received) % samples:
        return None
    at = positions.to(batch.ids.device).expand(samples, -1).reshape(-1)
    if len(at) != len(received):
        return None
    columns, lengths = batch.row, torch.bincount(batch.sample, minlength=samples)
    tokens = (batch.segment >= 0).long()
    counted = torch.cat([part.cumsum(0) - 1 for part in tokens.split(lengths.tolist())])
    for places, known in ((columns, tokens >= 0), (counted, tokens > 0)):
        rows = torch.full((samples, int(lengths.max())), -1, dtype=torch.long, device=at.device)
        rows[batch.sample[known], places[known]] = torch.nonzero(known).reshape(-1)
        if not bool(((at >= 0) & (at < rows.shape[1])).all()):
            return None
        found = rows[received.sample, at]
        if bool((found >= 0).all()) and torch.equal(batch.ids[found], received.ids):
            return found
    return None


def align_streams(received: Stream, batch: Stream, uses: Tensor | None = None) -> Tensor:
    """(R,) int64: for each row of ``received`` its row of ``batch``; -1 at padding or where there is none.

    Runs of received ids are found again in the batch: whole samples, padding included, else each of their
    segments. So inputs may be cut, split into micro-batches, padded anew, packed or unpacked by the trainer.

    Args:
        received: the ids that a forward was given.
        batch: the ids of the whole batch.
        uses: (R,) int64, how often earlier forwards were given each row of the batch; counted up here. Of
            samples that are alike the one least used is taken, as with micro-batches.
    """
    uses = torch.zeros_like(batch.ids) if uses is None else uses
    if len(received) == len(batch) and torch.equal(received.ids, batch.ids):
        uses += 1
        return torch.arange(len(batch), device=received.ids.device)
    out = torch.full_like(received.ids, -1)
    search = _Search(received, batch, uses, out, torch.zeros_like(batch.ids, dtype=torch.bool))
    for sample in torch.unique(received.sample).tolist():
        rows = torch.nonzero(received.sample == sample).reshape(-1)
        if search.placed(rows) or search.placed_again(rows):
            continue
        real = rows[received.segment[rows] >= 0]
        for number in torch.unique(received.segment[real]).tolist():
            piece = real[received.segment[real] == number]
            if search.placed(piece) or search.placed_behind(piece):
                continue
            if search.placed_altered(rows):
                break
            search.place_beginning(piece)
    uses += search.taken
    return out


@dataclass
class _Search:
    """Runs of received rows, looked for in the batch; what was found goes to ``out`` and is ``taken``."""

    received: Stream
    batch: Stream
    uses: Tensor
    out: Tensor
    taken: Tensor

    def placed(self, run: Tensor) -> bool:
        """Find the ids of ``run`` in one sample of the batch, in one piece, where no other run was found."""
        length, size = len(run), len(self.batch)
        if length == 0 or length > size:
            return False
        batch, ids = self.batch, self.received.ids[run]
        starts = torch.arange(size - length + 1, device=ids.device)
        ends = starts + length - 1
        fits = (batch.ids[starts] == ids[0]) & (batch.ids[ends] == ids[-1])
        fits &= (batch.sample[starts] == batch.sample[ends]) & ~self.taken[starts] & ~self.taken[ends]
        rank = self._rank(run, starts, ends)
        real, second = self.received.segment[run] >= 0, None
        for start in starts[fits][torch.argsort(rank[fits], descending=True, stable=True)].tolist():
            place = slice(start, start + length)
            if not torch.equal(batch.ids[place], ids):
                continue
            if torch.equal(batch.segment[place] >= 0, real):  # padded alike
                self._take(run, torch.arange(start, start + length, device=ids.device))
                return True
            second = start if second is None else second
        if second is not None:
            self._take(run, torch.arange(second, second + length, device=ids.device))
        return second is not None

    def _rank(self, run: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        """Rows not used before go first, then the run's own place, then whole segments, then their beginnings."""
        segment = self.batch.segment
        begins = (starts == 0) | (segment[(starts - 1).clamp(min=0)] != segment[starts])
        last = len(self.batch) - 1
        stops = (ends == last) | (segment[(ends + 1).clamp(max=last)] != segment[ends])
        own = (self.batch.sample == self.received.sample[run[0]]) & (self.batch.row == self.received.row[run[0]])
        return 2 * begins.long() + stops.long() + 4 * own[starts].long() - 8 * self.uses[starts]

    def placed_behind(self, run: Tensor) -> bool:
        """Find a segment whose inputs were moved on: something stands in front, and as much is cut off its end."""
        batch, received = self.batch, self.received
        mine = (batch.sample == received.sample[run[0]]) & (batch.segment == received.segment[run[0]])
        home = torch.nonzero(mine & ~self.taken).reshape(-1)
        for front in range(1, min(MOST_IN_FRONT, len(run) - 1) + 1):
            rest = run[front:]
            if len(home) >= len(rest) and torch.equal(received.ids[rest], batch.ids[home[: len(rest)]]):
                self._take(rest, home[: len(rest)])
                return True
        return False

    def placed_again(self, run: Tensor) -> bool:
        """Find a whole sample of the batch that was found before: the trainer repeats the batch (R-Drop, self-play)."""
        number, ids = int(self.received.sample[run[0]]), self.received.ids[run]
        samples = torch.unique(self.batch.sample).tolist()
        for sample in sorted(samples, key=lambda one: one != number % len(samples)):
            place = torch.nonzero(self.batch.sample == sample).reshape(-1)
            if len(place) == len(run) > 1 and bool(self.taken[place].all()) and torch.equal(self.batch.ids[place], ids):
                self._take(run, place)
                return True
        return False

    def placed_altered(self, run: Tensor) -> bool:
        """Place a sample of which ids were changed here and there: dropped tokens, tokens of the model's own."""
        home = torch.nonzero(self.batch.sample == self.received.sample[run[0]]).reshape(-1)
        if len(home) != len(run) or bool(self.taken[home].any()):
            return False
        if not _are_altered([self._same(run, home)]) and not self._is_altered:
            return False
        self._take(run, home)
        return True

    @cached_property
    def _is_altered(self) -> bool:
        """Whether that is so of all samples together, which lie as those of the batch do."""
        if not torch.equal(self.received.sample, self.batch.sample):
            return False
        samples = [
            torch.nonzero(self.batch.sample == one).reshape(-1) for one in torch.unique(self.batch.sample).tolist()
        ]
        return _are_altered([self._same(rows, rows) for rows in samples])

    def _same(self, run: Tensor, home: Tensor) -> Tensor:
        """(r,) bool: of the rows that are no padding, whose id is the same."""
        return (self.received.ids[run] == self.batch.ids[home])[self.batch.segment[home] >= 0]

    def place_beginning(self, run: Tensor) -> None:
        """Place as much of ``run`` as begins the same sample of the batch: the rest was appended by the trainer."""
        home = torch.nonzero((self.batch.sample == self.received.sample[run[0]]) & ~self.taken).reshape(-1)[: len(run)]
        same = (self.received.ids[run[: len(home)]] == self.batch.ids[home]).long().cumprod(0).bool()
        if len(home) and 2 * int(same.sum()) >= len(home):
            self._take(run[: len(home)][same], home[same])

    def _take(self, run: Tensor, place: Tensor) -> None:
        self.out[run] = place
        self.taken[place] = True


def _are_altered(samples: Sequence[Tensor]) -> bool:
    """Whether half of the rows behind the first that differs are the same: no beginning in common, and no more."""
    rests = [same[int((~same).long().argmax()) + 1 :] for same in samples if not bool(same.all())]
    return 2 * sum(int(rest.sum()) for rest in rests) >= sum(map(len, rests))
