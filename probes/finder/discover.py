"""Find: which tensors are a stream's logits, and which integers of the batch their targets follow. Nothing is named.

A tensor is a stream's logits if (a) no other logits depend on it, (b) a hard target explains its gradient at its own
values, and (c) its targets follow when integers of the batch are renamed, and those are tokens that the model reads.
(a) and (b) without (c) is a note; tokens of which something is not known are said to be unclear, and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment.streams import IGNORE_INDEX

from ..errors import UsageError
from ..host.preserve import preserved
from ..models.adapter import Batch
from ..models.declaration import Declaration, HeadPlace
from ..models.modules import unwrapped
from ..models.objectives import is_masked
from ..models.place import Place
from ..models.token_ids import special_ids, vocabularies
from .also import also_trained
from .candidates import Candidate
from .evidence import FOLLOWS, Evidence, Part
from .found import Discovery, Found, Unclear, shaped
from .hidden import hidden
from .names import Maker, alike, head_of, named
from .own_books import number_of, of_their_own
from .parts import parts_of
from .places import Reach, match, reach
from .renaming import Renaming, integers, singly, together
from .runs import Echo, Program
from .source import EXPLAINED, Source, by_sample, labels_said, mask_said

__all__ = ["discover", "look_beside"]


def discover(model: nn.Module, batch: Mapping[str, Any], loss_fn: Callable[[nn.Module, Any], Tensor]) -> Discovery:
    """What ``loss_fn(model, batch)`` trains: its streams, found by their gradients and by renaming the batch.

    The model, its gradients, modes, buffers and the random state are afterwards as before.

    Raises:
        UsageError: the loss raises, or returns no scalar with a gradient.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch module, got {type(model).__name__}")
    if not isinstance(batch, Mapping):
        raise UsageError(f"batch must map names to tensors, got {type(batch).__name__}")
    with preserved(model):
        found = _Finder(model, dict(batch), loss_fn, lambda _: False).discovery()
    if found.found or found.unclear or found.notes:
        return found
    return replace(found, notes=("the loss trains no logits: no tensor has the gradient of a choice among tokens",))


def look_beside(
    model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Any], Tensor], is_judged: Callable[[Maker], bool]
) -> Discovery:
    """The same of what is made by something else than the judged heads; the caller preserves the model."""
    return _Finder(model, batch, loss_fn, lambda one: is_judged(head_of(one))).discovery()


class _Finder:
    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        skip: Callable[[Candidate], bool],
    ) -> None:
        self.inner = unwrapped(model)
        self.batch = batch
        self.numbers = integers(batch)
        self.kept = frozenset(special_ids(self.inner))
        self.program = Program(model, batch, loss_fn, self.kept, skip)
        self.told = Evidence(self.program, self.numbers)
        self.ends: dict[tuple[Place, range], list[Echo] | None] = {}
        self.notes: list[str] = []

    def discovery(self) -> Discovery:
        program = self.program
        program.look(partial(also_trained, self.inner))
        logits = program.candidates[: len(program.seen)]
        failed = self.told.rename(singly(self.numbers, self.kept)) if logits else []
        alone = [
            any(echo[number].share >= FOLLOWS for echo in self.told.echoes.values()) for number in range(len(logits))
        ]
        if not all(alone):  # what is computed of two tensors follows both
            failed += self.told.rename(together(self.numbers, self.kept))
        found: list[Found] = []
        unclear: list[Unclear] = []
        for part in parts_of(self.told):
            said = self._judge(part)
            if isinstance(said, Found):
                found.append(said)
            elif isinstance(said, Unclear):
                unclear.append(said)
            else:
                self.notes.append(said)
        if failed and (unclear or not found):
            self.notes.append(f"the loss does not run as before with {', '.join(failed)} renamed")
        inside = [head_of(one).told(one.shape) for one in program.candidates if one.inside]
        self.notes += [f"inside the model, no stream: {one}" for one in alike(inside)]
        told = {head_of(one).path for one in logits}
        self.notes += [
            f"also trained: {shaped(path, program.outputs.get(path, ()))}" for path in program.past if path not in told
        ]
        found = of_their_own(found, self.inner, self.batch)
        return Discovery(named(found), tuple(unclear), tuple(dict.fromkeys(self.notes)), program.loss)

    # -- one candidate ---------------------------------------------------------------------------

    def _judge(self, part: Part) -> Found | Unclear | str:
        candidate = self.program.candidates[part.numbers[0]]
        head = head_of(candidate)
        trained = part.target != IGNORE_INDEX
        followed = [key for key in self.told.followed(part) if self.told.share(key, part) > 0]
        sources = [one for key in self.numbers for one in self._sources(key, part)]
        targets = [one for one in sources if one.follows]
        best = self._input(part, sources)
        is_vocabulary = candidate.width in vocabularies(self.inner)
        told, reads = head.told(candidate.shape), tuple(str(one.place) for one in sources if one.read)
        unclear = partial(Unclear, head.path, candidate.shape, rows=int(trained.sum()), reads=reads)
        if not followed and not targets:
            spared = candidate.width + 1 in vocabularies(self.inner)  # no score for the mask
            masked = self._hidden(part, sources, head) if is_vocabulary or spared else None
            if masked is not None:
                return self._found(part, candidate, masked, targets, int(trained.sum()))
            values = torch.unique(part.target[trained])
            what = f"constants ({', '.join(map(str, values[:4].tolist()))})" if len(values) < 3 else "no input"
            if is_vocabulary:
                reason = f"logits over {candidate.width} ids whose targets are {what}: none follows an integer of the "
                return unclear(f"{reason}batch")
            return f"also trained: {told}: a choice among {candidate.width}, whose targets follow nothing in the batch"
        if best is None:
            keys = ", ".join(followed)
            if self._made_inside(followed, part.target[trained]):
                reason = f"its targets follow {keys} and stand nowhere in the batch: the model makes them (codes?)"
                return unclear(reason)
            if is_vocabulary:
                reason = f"logits over {candidate.width} ids whose targets follow {keys}: no integers that the model "
                return unclear(f"{reason}reads hold these tokens")
            return f"also trained: {told}: a classifier over {candidate.width} classes ({keys})"
        if candidate.width < LEAST_VOCABULARY_SHARE * (int(best.ids.max()) + 1) and not is_vocabulary:
            return f"also trained: {told}: a classifier over {candidate.width} classes ({', '.join(followed)})"
        if best.match.shift is not None and best.reach.everything and not best.masked:
            reason = f"each of its rows reads all of {best.place}, and none of it is masked: no offset can be told"
            return unclear(reason)
        return self._found(part, candidate, best, targets, int(trained.sum()))

    def _hidden(self, part: Part, sources: Sequence[Source], head: Maker) -> Source | None:
        """The one sequence that is masked exactly where rows are trained; of several, that of the head's number."""
        fits = hidden(part.target, sources)
        if len(fits) > 1:
            books = sum(one.place.key == fits[0].place.key for one in sources)
            own = number_of(head.path, self.inner, books) if not head.is_parameter else None
            fits = [one for one in fits if one.place.book is not None and one.place.book == own]
        return fits[0] if len(fits) == 1 else None

    def _made_inside(self, followed: Sequence[str], targets: Tensor) -> bool:
        """Whether several targets a sample follow integers that are none of them."""
        tensors = [self.numbers[key].cpu() for key in followed]
        held = torch.cat([tensor.reshape(-1).long() for tensor in tensors]) if tensors else targets[:0]
        samples = max((len(tensor) for tensor in tensors), default=len(targets))
        return len(targets) > samples and float(torch.isin(targets, held).float().mean()) < EXPLAINED

    def _found(self, part: Part, candidate: Candidate, best: Source, targets: Sequence[Source], rows: int) -> Found:
        head = head_of(candidate)
        labels = next(
            (one.place for one in targets if one.place.key != best.place.key and one.ids.shape == best.ids.shape), None
        )
        masked = best.masked and (best.reach.everything or best.is_blank)
        if masked:
            labels = labels_said(self.batch, best, by_sample(part.target, len(best.ids))) or labels
        own = best.place.key in [one.place.key for one in targets] and best.follows
        offset = None
        if best.match.shift is not None:
            offset = best.match.shift + best.reach.lag
        declaration = Declaration(
            name=str(best.place),
            head=(HeadPlace(head.path, index=Place("") if self._in_blocks(part, candidate, head) else part.index),),
            ids=best.place,
            labels=None if own else labels,
            mask=mask_said(self.batch, best, by_sample(part.target, len(best.ids))) if own or labels is None else None,
            call=head.call if len(part.numbers) == 1 else None,
            objective="masked" if masked else "next",
        )
        moved = {name: self.told.share(name, part) for name in self.told.echoes}
        return Found(
            declaration,
            candidate.shape,
            candidate.width,
            rows,
            offset,
            moved,
            computed=own and best.reach.lag > 0,
            lag=best.reach.lag,
        )

    def _in_blocks(self, part: Part, candidate: Candidate, head: Maker) -> bool:
        """Whether the head gives its codebooks one behind another in the last axis, and others part them."""
        given = self.program.outputs.get(head.path, ())
        return part.of > 1 and bool(given) and given[-1] == part.of * candidate.width

    # -- where the targets come from -------------------------------------------------------------

    def _sources(self, key: str, part: Part) -> list[Source]:
        """What a key of the batch is to a candidate: one source, or one for each slice that holds its targets."""
        echo = self.told.echoes.get(key)
        if echo is None:
            return []
        read = bool(self.told.laid(part, [echo[number].logits for number in part.numbers]).any())
        follows = self.told.share(key, part) >= FOLLOWS
        if not read and not follows:
            return []
        tensor = self.numbers[key].cpu()
        folded = tensor.dim() == 2 and part.of > 1 and len(tensor) == part.of * len(part.target)
        if tensor.dim() < 3 and not folded:
            ids = tensor if tensor.dim() == 2 else tensor[None]
            return [self._source(Place(key), ids, follows, read, part)]
        axis = self.told.axis(key) if not folded else 0
        out = []
        for index in range(part.of if folded else tensor.shape[axis]):
            place = Place(key, f"[{index}::{part.of}]" if folded else f"[{':, ' * axis}{index}]")
            one = self._source(place, place.of({key: tensor}), follows, read, part)
            if follows:
                echo = self.told.every(key, part.of)[index] if folded else self.told.sliced(key)[index]
                one = replace(one, follows=self.told.moved(echo, part) >= FOLLOWS)
            out.append(one)
        return out

    def _source(self, place: Place, ids: Tensor, follows: bool, read: bool, part: Part) -> Source:
        target = by_sample(part.target, len(ids))
        return Source(place, ids, follows, read, match(target, ids), masked=is_masked(target, ids))

    def _input(self, part: Part, sources: Sequence[Source]) -> Source | None:
        """The sequence that the model reads and the targets are tokens of; None if there is none, or no one."""
        fits = [one for one in sources if one.read and one.match.share >= EXPLAINED]
        own = [one for one in sources if one.read and one.follows]
        if own:
            fits = [one for one in own if one in fits]
        elif not fits:
            labels = next((one for one in sources if one.follows and one.match.share >= EXPLAINED), None)
            fits = [
                replace(one, match=labels.match)
                for one in sources
                if labels is not None and one.read and one.masked and one.ids.shape == labels.ids.shape
                if not one.place.index or one.place.index == labels.place.index or not labels.place.index
            ]
        placed = [replace(one, reach=self._reach(part, one)) for one in fits]
        order = sorted(placed, key=lambda one: (one.reach.everything, -one.match.share))
        if not order or (len(order) > 1 and order[0].place.key == order[1].place.key and _alike(order[0], order[1])):
            return None
        return order[0]

    def _reach(self, part: Part, source: Source) -> Reach:
        """Which rows read a token of the sequence."""
        target = by_sample(part.target, len(source.ids))
        if target.dim() != 2 or target.shape[0] != len(source.ids):
            return Reach()
        begin, length = max(1, source.ids.shape[1] * 5 // 8), source.ids.shape[1]
        later = self._movedreplace(part, source, range(begin, length))
        if later is None:
            return Reach()
        changed = (source.ids >= 0) & (torch.arange(length) >= begin)
        at = torch.where(changed.any(1), changed.long().argmax(1), torch.full((len(source.ids),), begin))
        found = reach(later, at)
        if not found.everything or source.match.shift != 1 or later.shape != source.ids.shape:
            return found
        earlier = self._movedreplace(part, source, range(length - begin))
        if earlier is None or bool(earlier[:, begin:].any()):
            return found
        return Reach()  # they read what comes, and nothing of what was: a causal mask the wrong way round

    def _movedreplace(self, part: Part, source: Source, positions: range) -> Tensor | None:
        """(B, T') bool: rows that move when the ids at these positions are others; None where that cannot be run."""
        key = source.place.key
        whole = torch.zeros(self.numbers[key].shape, dtype=torch.bool)
        chosen = torch.zeros(source.ids.shape, dtype=torch.bool)
        chosen[:, positions.start : positions.stop] = True
        source.place.of({key: whole}).copy_(chosen.reshape(source.place.of({key: whole}).shape))
        at = (source.place, positions)
        if at not in self.ends:  # parts of one tensor ask alike
            self.ends[at] = self.program.renamed(Renaming((key,), whole, kept=self.kept))
        echo = self.ends[at]
        if echo is None:
            return None
        moved = self.told.laid(part, [echo[number].logits for number in part.numbers]).reshape(part.target.shape)
        return by_sample(moved, len(source.ids))


#: A head scores nearly all ids that its inputs hold; fillers and placeholders may lie beyond.
LEAST_VOCABULARY_SHARE = 0.5


def _alike(one: Source, other: Source) -> bool:
    return one.match.share == other.match.share and one.reach.everything == other.reach.everything
