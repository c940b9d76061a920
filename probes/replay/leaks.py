"""What a row saw that it must not: its own target, a later input, another sample or another document (LA401)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.findings import Finding, finding

from .cuts import Place, Places
from .perturbation import SAME_ORDER, Movement
from .told import Causality

__all__ = ["BASIS", "Leaks", "told_leaks"]

BASIS = "logits against later inputs"
APART = (
    "Keep the samples of a batch apart: one attention mask for each (a flattened batch needs `cu_seqlens` or a "
    "block-diagonal mask), and no statistics over the batch dimension."
)
DOCUMENTS = (
    "Keep packed documents apart: a block-diagonal mask, or position ids that begin anew with an attention that "
    "reads them (no attention_mask of ones beside them, and use_cache=False)."
)
#: Rows that move when what these cuts name is replaced, per stream; None where runs do not repeat.
Moving = Callable[..., list[Tensor] | None]


@dataclass
class Leaks:
    """Rows that have moved and must not.

    Attributes:
        places: of all rows.
        ahead: (R,) int64 per stream, how far ahead of a trained row an input lies that moves it; 0 for none.
        untrained: the same for rows that are not trained, which may see later inputs, as a prefix does.
        before: (R,) bool per stream, rows that stood before a cut of their document.
        crossed: documents that were cut while others of their sample were replaced.
    """

    places: Places
    ahead: list[Tensor]
    untrained: list[Tensor]
    before: list[Tensor]
    cuts: list[Place]

    @classmethod
    def none(cls, places: Places) -> Leaks:
        """Before any cut."""
        streams = places.view.streams
        zeros = [torch.zeros_like(stream.segment) for stream in streams]
        return cls(places, zeros, [z.clone() for z in zeros], [torch.zeros_like(s.filler) for s in streams], [])

    def add(self, cuts: Sequence[Place], moved: Sequence[Tensor]) -> None:
        """Take what one run showed; of a sample without a cut nothing was replaced, and no row may move."""
        self.cuts += cuts
        for number, (stream, rows) in enumerate(zip(self.places.view.streams, moved, strict=True)):
            trained = self.places.trained[number]
            ahead = torch.ones_like(stream.segment)
            held, cut_here = torch.ones_like(stream.filler), torch.zeros_like(stream.filler)
            for cut in cuts:
                here = stream.sample == cut.sample
                cut_here |= here
                held &= ~here | self.held(number, cut)
                ahead = torch.where(here, cut.position - self.places.layout.positions[number], ahead)
            held &= (stream.segment >= 0) | trained
            if self.places.view.ahead:  # over the first rows of a sample lie its last ones
                held &= self.places.layout.positions[number] >= self.places.view.ahead[number] - 1
            self.before[number] |= held & cut_here
            found = torch.where(rows & held, ahead.clamp(min=1), 0)
            self.ahead[number] = torch.maximum(self.ahead[number], found * trained)
            self.untrained[number] = torch.maximum(self.untrained[number], found * ~trained)

    def held(self, number: int, cut: Place) -> Tensor:
        """(R,) bool: rows of the cut's document that may see nothing of what is replaced.

        What lies from a row's target on it must not have read. A head that predicts two ahead may have read the next.
        """
        document = self.places.document[number]
        mine = (document == cut.document) | (document < 0)  # padding is of no document
        positions, source = self.places.layout.positions[number], self.places.source[number]
        return mine & (positions < cut.position) & (source <= cut.position)

    def cover(self, told: Causality) -> None:
        """How many rows and borders the cuts have reached."""
        trained = self.places.trained
        told.trained = sum(int(rows.sum()) for rows in trained)
        told.covered = sum(int((rows & before).sum()) for rows, before in zip(trained, self.before, strict=True))
        text, document = self.places.view.streams[0], self.places.document[0]
        pairs = torch.stack([text.sample, document])[:, text.segment >= 0].unique(dim=1).T.tolist()
        packed = {(s, d) for s, d in pairs if sum(s == other for other, _ in pairs) > 1}
        told.borders = (len(packed & {(cut.sample, cut.document) for cut in self.cuts}), len(packed))


def told_leaks(told: Causality, leaks: Leaks, moving: Moving, movement: Movement | None) -> None:
    """Add one finding per modality whose trained rows leak."""
    streams = leaks.places.view.streams
    for kind in ("text", "audio"):
        mine = [n for n, stream in enumerate(streams) if stream.is_audio == (kind == "audio")]
        others = sum(int((leaks.untrained[n] > 0).sum()) for n in mine)
        told.ahead |= others > 0 or any(bool(leaks.ahead[n].any()) for n in mine)
        if others:
            told.notes.append(f"causality: {others} {kind} rows that are not trained see later inputs (a prefix?)")
        if any(bool(leaks.ahead[n].any()) for n in mine):
            limit = 0.0 if movement is None else movement.allowed(kind, SAME_ORDER)
            leak = _Leak(leaks, mine, moving)
            told.by_samples = leak.by_samples and (told.by_samples or not told.findings)
            told.findings.append(leak.finding(kind, limit))


class _Leak:
    """One finding: whose inputs the rows have read is told by replacing one thing at a time."""

    def __init__(self, leaks: Leaks, mine: Sequence[int], moving: Moving) -> None:
        self.leaks, self.moving, self.places = leaks, moving, leaks.places
        self.ahead = {n: leaks.ahead[n] for n in mine}
        self.number = next(n for n, ahead in self.ahead.items() if bool(ahead.any()))
        self.row = int(torch.nonzero(self.ahead[self.number] > 0)[0])
        stream = self.places.view.streams[self.number]
        self.sample = int(stream.sample[self.row])
        self.document = int(self.places.document[self.number][self.row])
        cuts = [cut for cut in leaks.cuts if cut.sample == self.sample]
        self.found = self._found(cuts)
        self.follows = bool(self.found) and self._by_what_follows(cuts)

    @property
    def by_samples(self) -> bool:
        """Whether other samples alone move them."""
        return [fix for _, fix in self.found] == [APART] and not self.follows

    def finding(self, kind: str, limit: float) -> Finding:
        stream = self.places.view.streams[self.number]
        count = sum(int((ahead > 0).sum()) for ahead in self.ahead.values())
        reach = max(int(ahead.max()) for ahead in self.ahead.values())
        seen, fix = self._seen(
            f"inputs after them are replaced, up to {reach} position{'' if reach == 1 else 's'} ahead"
        )
        message = f"{count} trained rows move when {seen}: {stream.name} sample {self.sample} row "
        message += f"{int(stream.row[self.row])} first; rounding explains {limit:.1e}"
        padding = sum(
            int(((ahead > 0) & (self.places.view.streams[n].segment < 0)).sum()) for n, ahead in self.ahead.items()
        )
        if padding:
            message += f"; {padding} of them are padding, which sees whatever follows it"
        return finding("LA401", kind, message, count=count, basis=BASIS, fix=fix)

    def _seen(self, later: str) -> tuple[str, str | None]:
        """What moves the rows, and what to do where that is not what stands after them."""
        if not self.found:
            return f"only {later}", None
        what = " or ".join(what for what, _ in self.found)
        if self.follows:
            return f"{what} or {later}", self.found[0][1]
        return f"only {what} are replaced", self.found[0][1]

    def _found(self, cuts: Sequence[Place]) -> list[tuple[str, str]]:
        """What moves the rows beside what stands after them, and what to do then."""
        told = (
            ("other samples of the batch", APART, self._by_samples()),
            ("other documents of the sample", DOCUMENTS, self._by_documents(cuts)),
        )
        return [(what, fix) for what, fix, moves in told if moves]

    def _moved(self, cuts: Sequence[Place], **what: bool) -> bool:
        moved = self.moving(cuts, **what)
        if moved is None:
            return False
        for number, ahead in self.ahead.items():
            stream = self.places.view.streams[number]
            rows = moved[number] & (ahead > 0) & (stream.sample == self.sample)
            for cut in cuts:
                if cut.sample == self.sample:
                    rows &= self.leaks.held(number, cut)
            if bool(rows.any()):
                return True
        return False

    def _by_samples(self) -> bool:
        text = self.places.view.streams[0]
        others = [s for s in text.sample.unique().tolist() if s != self.sample]
        return bool(others) and self._moved([Place(sample, 0, -1, "") for sample in others])

    def _by_documents(self, cuts: Sequence[Place]) -> bool:
        one = next((cut for cut in cuts if cut.document == self.document), None)
        mine = self.places.document[self.number][self.places.view.streams[self.number].sample == self.sample]
        if one is None or not bool((mine[mine >= 0] != self.document).any()):
            return False
        return self._moved([one], suffix=False)

    def _by_what_follows(self, cuts: Sequence[Place]) -> bool:
        return any(self._moved([cut], others=False) for cut in cuts)
