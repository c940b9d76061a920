"""Find: which tensors are a stream's logits, and which integers of the batch their targets follow. Nothing is named.

A tensor is a stream's logits if (a) no other logits depend on it, (b) a hard target explains its gradient at its own
values, and (c) its targets follow when integers of the batch are renamed, and those are tokens that the model reads.
(a) and (b) without (c) is a note; tokens of which something is not known are said to be unclear, and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from ..witness.backward import gradients_at
from .candidates import Candidate, Run, nodes_above
from .found import Discovery, Found, Unclear, shaped
from .names import Maker, alike, head_of, named
from .places import Match, Reach, is_flags, match, reach
from .renaming import Renaming, codebook_axis, integers, singly, slices, together
from .runs import Echo, Program

__all__ = ["discover", "look_beside"]

#: Targets that follow a renaming in this part of their rows follow it.
FOLLOWS = 0.5
#: This part of the targets must stand where a sequence of ids says.
EXPLAINED = 0.9


@dataclass(frozen=True)
class Source:
    """A sequence of the batch: a key, and the slice of it where it holds several side by side.

    ``follows`` says whether targets follow it, ``read`` whether logits do, ``match`` where the targets stand in it.
    """

    place: Place
    ids: Tensor
    follows: bool
    read: bool
    match: Match
    reach: Reach = field(default_factory=Reach)
    masked: bool = False


@dataclass(frozen=True)
class Part:
    """A candidate, or one slice of its rows where several streams share the tensor."""

    number: int
    target: Tensor
    rows: Tensor
    index: Place = field(default_factory=lambda: Place(""))


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
        self.echoes: dict[str, list[Echo]] = {}
        self.slices: dict[str, list[list[Echo] | None]] = {}
        self.ends: dict[tuple[Place, range], list[Echo] | None] = {}
        self.notes: list[str] = []

    def discovery(self) -> Discovery:
        program = self.program
        program.look(partial(_also_trained, self.inner))
        logits = program.candidates[: len(program.seen)]
        failed = self._rename(singly(self.numbers, self.kept)) if logits else []
        alone = [any(echo[number].share >= FOLLOWS for echo in self.echoes.values()) for number in range(len(logits))]
        if not all(alone):  # what is computed of two tensors follows both
            failed += self._rename(together(self.numbers, self.kept))
        found: list[Found] = []
        unclear: list[Unclear] = []
        for number in range(len(logits)):
            for part in self._parts(number):
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
        return Discovery(named(found), tuple(unclear), tuple(dict.fromkeys(self.notes)), program.loss)

    def _rename(self, several: Sequence[Renaming]) -> list[str]:
        """See what each renaming does; the names of those with which the loss does not run as before."""
        failed = []
        for renaming in several:
            echo = self.program.renamed(renaming)
            if echo is None:
                failed.append(renaming.name)
            else:
                self.echoes[renaming.name] = echo
        return failed

    # -- one candidate ---------------------------------------------------------------------------

    def _parts(self, number: int) -> list[Part]:
        """The candidate, or its slices along an axis of its own where each follows another slice of the batch."""
        candidate, target = self.program.candidates[number], self.program.seen[number].target
        shape = candidate.rows
        whole = Part(number, target.reshape(shape), torch.ones(len(target), dtype=torch.bool))
        for key in self._followed(number):
            tensor = self.numbers[key]
            if tensor.dim() != 3:
                continue
            follows = [None if echo is None else echo[number].targets for echo in self._sliced(key)]
            for axis in range(len(shape)):
                count = shape[axis]
                if not 2 <= count <= len(follows) or not self._comes_apart(
                    follows, self.program.seen[number].free, shape, axis
                ):
                    continue
                return _cut(whole, axis)
        if len(shape) == 3 and not any(self.numbers[key].dim() == 3 for key in self._followed(number)):
            alike = [key for key, tensor in self.numbers.items() if tensor.shape == shape]
            return _cut(whole, self._axis(alike[0]) if alike else codebook_axis(whole.target))  # heads side by side
        return [whole]

    def _comes_apart(self, follows: Sequence[Tensor | None], free: Tensor, shape: tuple[int, ...], axis: int) -> bool:
        """Whether each slice of rows along ``axis`` follows one slice of the batch, and no two the same."""
        trained = free.reshape(shape).movedim(axis, 0).flatten(1)
        best = []
        for index in range(shape[axis]):
            count = int(trained[index].sum())
            if not count:
                continue
            shares = [
                0.0 if moved is None else int((moved.reshape(shape).movedim(axis, 0).flatten(1)[index]).sum()) / count
                for moved in follows
            ]
            if max(shares) < FOLLOWS:
                return False
            best.append(shares.index(max(shares)))
        return len(best) > 1 and len(set(best)) == len(best)

    def _followed(self, number: int) -> list[str]:
        """Keys that the targets of a candidate follow."""
        return [key for key in self.numbers if key in self.echoes and self.echoes[key][number].share >= FOLLOWS] or [
            key for name, echo in self.echoes.items() if echo[number].share >= FOLLOWS for key in name.split("+")
        ]

    def _sliced(self, key: str) -> list[list[Echo] | None]:
        if key not in self.slices:
            renamed = slices(key, self.numbers[key], self._axis(key), self.kept)
            self.slices[key] = [self.program.renamed(one) for one in renamed]
        return self.slices[key]

    def _axis(self, key: str) -> int:
        """The codebooks' axis of three, read off the logits where these have one too; else the shorter one."""
        tensor = self.numbers[key].cpu()
        logits = [
            (seen.target.reshape(one.rows), one.rows)
            for one, seen in zip(self.program.candidates, self.program.seen, strict=False)
            if len(one.rows) == 3
        ]
        alike = [axis for axis in (1, 2) if any(tensor.shape[axis] in rows[1:] for _, rows in logits)]
        if len(alike) == 1:
            return alike[0]  # time's is cut there
        target = next((target for target, rows in logits if rows == tensor.shape), None)
        along = [0.0 if target is None else _together(target, tensor, axis) for axis in (1, 2)]
        return codebook_axis(tensor) if along[0] == along[1] else 1 + along.index(max(along))

    def _judge(self, part: Part) -> Found | Unclear | str:
        candidate = self.program.candidates[part.number]
        head = head_of(candidate)
        trained = part.target != IGNORE_INDEX
        followed = [key for key in self._followed(part.number) if self._share(key, part) > 0]
        sources = [one for key in self.numbers for one in self._sources(key, part)]
        targets = [one for one in sources if one.follows]
        best = self._input(part, sources)
        is_vocabulary = candidate.width in vocabularies(self.inner)
        told = head.told(candidate.shape)
        if not followed and not targets:
            values = torch.unique(part.target[trained])
            what = f"constants ({', '.join(map(str, values[:4].tolist()))})" if len(values) < 3 else "no input"
            if is_vocabulary:
                reason = f"logits over {candidate.width} ids whose targets are {what}: none follows an integer of the "
                return Unclear(head.path, candidate.shape, f"{reason}batch", int(trained.sum()))
            return f"also trained: {told}: a choice among {candidate.width}, whose targets follow nothing in the batch"
        if best is None:
            keys = ", ".join(followed)
            if self._made_inside(followed, part.target[trained]):
                reason = f"its targets follow {keys} and stand nowhere in the batch: the model makes them (codes?)"
                return Unclear(head.path, candidate.shape, reason, int(trained.sum()))
            if is_vocabulary:
                reason = f"logits over {candidate.width} ids whose targets follow {keys}: no integers that the model "
                return Unclear(head.path, candidate.shape, f"{reason}reads hold these tokens", int(trained.sum()))
            return f"also trained: {told}: a classifier over {candidate.width} classes ({keys})"
        if candidate.width < LEAST_VOCABULARY_SHARE * (int(best.ids.max()) + 1) and not is_vocabulary:
            return f"also trained: {told}: a classifier over {candidate.width} classes ({', '.join(followed)})"
        if best.match.shift is not None and best.reach.everything and not best.masked:
            reason = f"each of its rows reads all of {best.place}, and none of it is masked: no offset can be told"
            return Unclear(head.path, candidate.shape, reason, int(trained.sum()))
        return self._found(part, candidate, best, targets, int(trained.sum()))

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
        own = best.place.key in [one.place.key for one in targets] and best.follows
        offset = None
        if best.match.shift is not None:
            offset = best.match.shift + best.reach.lag
        declaration = Declaration(
            name=str(best.place),
            head=(HeadPlace(head.path, index=part.index),),
            ids=best.place,
            labels=None if own else labels,
            mask=self._mask(part, best) if own or labels is None else None,
            call=head.call,
            objective="masked" if best.masked and best.reach.everything else "next",
        )
        moved = {name: self._share(name, part) for name in self.echoes}
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

    # -- where the targets come from -------------------------------------------------------------

    def _share(self, name: str, part: Part) -> float:
        """The share of the part's rows whose target a renaming moved."""
        return self._moved(self.echoes[name], part)

    def _moved(self, echo: Sequence[Echo] | None, part: Part) -> float:
        free = int((self.program.seen[part.number].free & part.rows).sum())
        moved = 0 if echo is None else int((echo[part.number].targets & part.rows).sum())
        return moved / max(free, 1)

    def _sources(self, key: str, part: Part) -> list[Source]:
        """What a key of the batch is to a candidate: one source, or one for each slice that holds its targets."""
        echo = self.echoes.get(key)
        if echo is None:
            return []
        mine = echo[part.number]
        read = bool(mine.logits[part.rows].any())
        follows = self._share(key, part) >= FOLLOWS
        if not read and not follows:
            return []
        tensor = self.numbers[key].cpu()
        if tensor.dim() < 3:
            ids = tensor if tensor.dim() == 2 else tensor[None]
            return [self._source(Place(key), ids, follows, read, part)]
        axis = self._axis(key)
        out = []
        for index in range(tensor.shape[axis]):
            place = Place(key, f"[{':, ' * axis}{index}]")
            one = self._source(place, tensor.select(axis, index), follows, read, part)
            if follows:
                one = _with(one, follows=self._moved(self._sliced(key)[index], part) >= FOLLOWS)
            out.append(one)
        return out

    def _source(self, place: Place, ids: Tensor, follows: bool, read: bool, part: Part) -> Source:
        target = _by_sample(part.target, len(ids))
        return Source(place, ids, follows, read, match(target, ids), masked=is_masked(target, ids))

    def _mask(self, part: Part, source: Source) -> Place | None:
        """Flags of the batch, laid out as the ids, that are set exactly where the targets stand; None without such."""
        target, shift = _by_sample(part.target, len(source.ids)), source.match.shift
        if shift is None or target.dim() != 2:
            return None
        sample, row = torch.nonzero(target != IGNORE_INDEX, as_tuple=True)
        inside = (row + shift >= 0) & (row + shift < source.ids.shape[1])
        trained = torch.zeros(source.ids.shape, dtype=torch.bool)
        trained[sample[inside], row[inside] + shift] = True
        whole = self.numbers[source.place.key].shape
        for key, value in self.batch.items():
            if not isinstance(value, Tensor) or value.shape not in (whole, source.ids.shape):
                continue
            place = Place(key, source.place.index if value.shape == whole else "")
            flags = place.of(self.batch).cpu().reshape(source.ids.shape)
            if is_flags(flags) and torch.equal(flags[:, 1:] != 0, trained[:, 1:]):
                return place
        return None

    def _input(self, part: Part, sources: Sequence[Source]) -> Source | None:
        """The sequence that the model reads and the targets are tokens of; None if there is none, or no one."""
        fits = [one for one in sources if one.read and one.match.share >= EXPLAINED]
        own = [one for one in sources if one.read and one.follows]
        if own:
            fits = [one for one in own if one in fits]
        elif not fits:
            labels = next((one for one in sources if one.follows and one.match.share >= EXPLAINED), None)
            fits = [
                _with(one, match=labels.match)
                for one in sources
                if labels is not None and one.read and one.masked and one.ids.shape == labels.ids.shape
                if not one.place.index or one.place.index == labels.place.index or not labels.place.index
            ]
        placed = [_with(one, reach=self._reach(part, one)) for one in fits]
        order = sorted(placed, key=lambda one: (one.reach.everything, -one.match.share))
        if not order or (len(order) > 1 and order[0].place.key == order[1].place.key and _alike(order[0], order[1])):
            return None
        return order[0]

    def _reach(self, part: Part, source: Source) -> Reach:
        """Which rows read a token of the sequence."""
        target = _by_sample(part.target, len(source.ids))
        if target.dim() != 2 or target.shape[0] != len(source.ids):
            return Reach()
        begin, length = max(1, source.ids.shape[1] * 5 // 8), source.ids.shape[1]
        later = self._moved_with(part, source, range(begin, length))
        if later is None:
            return Reach()
        changed = (source.ids >= 0) & (torch.arange(length) >= begin)
        at = torch.where(changed.any(1), changed.long().argmax(1), torch.full((len(source.ids),), begin))
        found = reach(later, at)
        if not found.everything or source.match.shift != 1 or later.shape != source.ids.shape:
            return found
        earlier = self._moved_with(part, source, range(length - begin))
        if earlier is None or bool(earlier[:, begin:].any()):
            return found
        return Reach()  # they read what comes, and nothing of what was: a causal mask the wrong way round

    def _moved_with(self, part: Part, source: Source, positions: range) -> Tensor | None:
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
        moved = echo[part.number].logits[part.rows].reshape(part.target.shape)
        return _by_sample(moved, len(source.ids))


#: A head scores nearly all ids that its inputs hold; fillers and placeholders may lie beyond.
LEAST_VOCABULARY_SHARE = 0.5


def _cut(whole: Part, axis: int) -> list[Part]:
    """The slices of a candidate along an axis of its rows."""
    numbers = torch.arange(whole.rows.numel()).reshape(whole.target.shape)
    parts = []
    for index in range(whole.target.shape[axis]):
        rows = torch.zeros_like(whole.rows)
        rows[numbers.select(axis, index).reshape(-1)] = True
        place = Place("", f"[{':, ' * axis}{index}]")
        parts.append(Part(whole.number, whole.target.select(axis, index), rows, place))
    return parts


def _together(target: Tensor, ids: Tensor, axis: int) -> float:
    """How well each slice of targets along an axis is explained by the same slice of the ids."""
    pairs = zip(target.unbind(axis), ids.unbind(axis), strict=True)
    return sum(match(mine, theirs).share for mine, theirs in pairs) / ids.shape[axis]


def _with(source: Source, **changes: Any) -> Source:
    return Source(**{**vars(source), **changes})


def _alike(one: Source, other: Source) -> bool:
    return one.match.share == other.match.share and one.reach.everything == other.reach.everything


def _by_sample(rows: Tensor, samples: int) -> Tensor:
    """(B, T') what rows hold, where they can be laid out by sample, time first or last; else (R,)."""
    if rows.dim() == 2 and samples in rows.shape:
        return rows if rows.shape[0] == samples else rows.T
    flat = rows.reshape(-1)
    return flat.reshape(samples, -1) if len(flat) % samples == 0 else flat


def _also_trained(inner: nn.Module, run: Run, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Modules and parameters that the loss reaches, and that feed none of the logits; outermost ones for their parts.

    Nothing where there are no logits: a loss that trains none reaches everything.
    """
    logits = [one.made.node for one in candidates if not one.inside]
    if not logits:
        return ()
    feeding = {*logits, *nodes_above(logits)}
    reached = nodes_above([run.loss.grad_fn], feeding.__contains__) - feeding
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    variables = {name: node.variable for node in reached if (name := names.get(id(getattr(node, "variable", None))))}
    grads = gradients_at(list(variables.values()), run.loss, inner)
    past = {name for name, grad in zip(variables, grads, strict=True) if grad is not None and bool((grad != 0).any())}
    owners = {_outermost(name, past, names.values()) for name in past}
    return tuple(sorted(owners))


def _outermost(name: str, among: set[str], every: Collection[str]) -> str:
    """The outermost module that holds a parameter and none that is not ``among`` them; the parameter, if none."""
    parts, best = name.split("."), name
    for count in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:count])
        if not all(one in among for one in every if one.startswith(f"{path}.")):
            break
        best = path
    return best
