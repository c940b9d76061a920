"""Cases of a batch of one's own: made under another seed, one of its samples alone, its ordinary ids drawn anew.

``b17`` is the whole batch under seed 17, ``b17 s0`` its first sample alone; ``b0`` is the batch as it is made, its ids
as they stand. What is special by its id (ends, placeholders, padding, codes that begin and end) stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream

from ..errors import UsageError
from ..host.preserve import same_random_state
from ..models import Adapter, Batch
from ..models.token_ids import special_ids
from ..ranks.same_batch import seed_all

__all__ = ["MakeBatch", "Redrawn", "parse_redrawn", "redrawn", "redrawn_strategy"]

MakeBatch = Callable[[], Batch]
_CASE = re.compile(r"b(?P<seed>\d+)(?: s(?P<sample>\d+))?")


@dataclass(frozen=True)
class Redrawn:
    """A seed, and which sample is taken alone; None for all of them."""

    seed: int
    sample: int | None = None

    def __str__(self) -> str:
        return f"b{self.seed}" if self.sample is None else f"b{self.seed} s{self.sample}"

    def smaller(self, samples: int) -> list[Redrawn]:
        """What may show the same with less, the least first: one of so many samples alone, ids as they stand."""
        alone = [None] if samples == 1 else [*range(samples), None]
        return [Redrawn(seed, sample) for seed in sorted({0, self.seed}) for sample in alone]


def parse_redrawn(text: str) -> Redrawn:
    """The case that ``text`` writes.

    Raises:
        UsageError: it writes none.
    """
    found = _CASE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--case {text!r}: a case of --batch is its seed and, alone, one sample, as in 'b17' or 'b17 s0'"
        )
    return Redrawn(int(found["seed"]), None if found["sample"] is None else int(found["sample"]))


def redrawn_strategy(samples: int) -> Any:
    """Cases of a batch of so many samples, all of them or one alone."""
    from hypothesis import strategies as st

    whole, alone = st.none(), st.integers(0, samples - 1)
    return st.builds(Redrawn, st.integers(0, 2**16), whole if samples == 1 else st.one_of(whole, alone))


def redrawn(model: nn.Module, adapter: Adapter, make_batch: MakeBatch, case: Redrawn) -> Batch:
    """The batch of a case.

    Raises:
        UsageError: no such sample, or ids that cannot be drawn anew.
        InputError: a batch that does not fit the model.
    """
    with same_random_state(model):
        seed_all(case.seed)
        batch = make_batch()
    if case.seed:
        batch = _relabelled(model, adapter, batch, case.seed)
    if case.sample is None:
        return batch
    parts = adapter.split(model, batch)
    if case.sample >= len(parts):
        raise UsageError(f"--case {case}: the batch has {len(parts)} samples, counted from 0")
    return parts[case.sample]


def _relabelled(model: nn.Module, adapter: Adapter, batch: Batch, seed: int) -> Batch:
    """The batch with every ordinary id drawn anew, labels following; streams that read the same ids read the same."""
    view, generator = adapter.view(model, batch), torch.Generator().manual_seed(seed)
    usable = adapter.usable_ids(model, view).cpu()
    if len(usable) < 2:
        raise UsageError(f"--batch: its ids cannot be drawn anew: {len(usable)} ordinary ids are left to draw from")
    named = special_ids(adapter.inner(model)) | set(adapter.special_ids.values())
    free = [_free(stream, usable, named) for stream in view.streams]
    fresh: list[Tensor] = []
    for number, stream in enumerate(view.streams):
        same = next((n for n, one in enumerate(view.streams[:number]) if torch.equal(one.ids, stream.ids)), None)
        drawn = usable[torch.randint(len(usable), (len(stream),), generator=generator)].to(stream.ids.device)
        fresh.append(torch.where(free[number], drawn, stream.ids) if same is None else fresh[same])
    try:
        other = adapter.relabel(model, batch, view, fresh, int(usable[0]))
        after = adapter.view(model, other).streams
    except InputError as error:
        raise UsageError(f"--batch: its ids cannot be drawn anew: {error}") from error
    why = "" if any(bool(rows.any()) for rows in free) else "none of them is an ordinary one"
    for stream, new, wanted, rows in zip(view.streams, after, fresh, free, strict=True):
        if not torch.equal(new.ids[rows], wanted[rows]):
            why = f"those of {stream.name} are made of something else in it"
        same = {key: value for key, value in batch.items() if value is other.get(key)}
        for key in _naming(same, stream, rows):
            why = f"{key!r} holds those of {stream.name} as well, and no stream says so: declare it with --streams"
    if why:
        raise UsageError(f"--batch: its ids cannot be drawn anew: {why}")
    return other


def _naming(batch: Batch, stream: Stream, rows: Tensor) -> Iterator[str]:
    """The keys whose values are most of the ids at ``rows`` (R,) of a stream, where they stand or one before."""
    for key, value in batch.items():
        if not isinstance(value, Tensor) or value.dim() != 2 or value.is_floating_point() or len(rows) % len(value):
            continue
        ids, free = stream.ids.reshape(len(value), -1), rows.reshape(len(value), -1)
        for ahead in (0, 1):
            length = min(value.shape[1], ids.shape[1] - ahead)
            named, place = value[:, :length], slice(ahead, ahead + length)
            labelled = free[:, place] & (named != IGNORE_INDEX)
            if 2 * int((labelled & (named == ids[:, place])).sum()) > int(labelled.sum()):
                yield key


def _free(stream: Stream, usable: Tensor, named: set[int]) -> Tensor:
    """(R,) bool: the rows whose id means nothing by itself."""
    ids, usable = stream.ids, usable.to(stream.ids.device)
    special = torch.tensor(sorted({*named, *stream.end_ids}), dtype=torch.long, device=ids.device)
    ordinary = torch.isin(ids, usable) | ((ids > usable.max()) & ~torch.isin(ids, special) & (not stream.is_audio))
    return ordinary & ~stream.filler & (stream.segment >= 0)
