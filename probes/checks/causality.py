"""Causality: can a row see its own target, or anything later?

Everything from a cut on is replaced by random other tokens and codes. No logits before the cut may move:
the row before it is trained on the token at the cut. Shapes stay the same, so that no more than one rounding
is allowed. (Poisoning later inputs with NaN would not do: 0 · NaN passes through an attention mask.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..host.preserve import preserved
from ..models import Adapter, Batch
from ..models.adapter import Layout
from ..models.forward import Outputs, all_finite, can_be_learnt, forward, spelled_out
from ..models.modules import routes_by_capacity
from ..records.report import Check
from ..replay.perturbation import SAME_ORDER, perturbed, repeats, row_changes, stream_logits
from ..witness.witness import Witness
from .cuts import Causality, Cut, Run
from .leaks import judge
from .witness_checks import named

__all__ = ["causality", "causality_check"]

TITLE = "No logit sees its own target or later inputs"
#: Where a stretch of one kind is cut inside.
INSIDE = (0.35, 0.7)
#: Cells of the strip that shows one cut.
CELLS = 64
UNMOVED, MOVED, LEAK = "·", "█", "!"


def causality(
    model: nn.Module, adapter: Adapter, batch: Batch, seen: Witness, seed: int, base: Outputs | None = None
) -> Causality:
    """Cut inside every kind of stretch and at every kind of border, and see which rows move.

    ``base`` is what a forward of the batch gave, where one has been run.
    """
    view = seen.view
    layout = adapter.layout(model, batch, view)
    given, batch = batch, spelled_out(model, adapter, batch)  # a row that a model moves to the front is no later input
    if base is None or batch.keys() != given.keys():
        base = forward(model, adapter, batch)
    logits = stream_logits(base, len(view.streams))
    if [len(rows) for rows in logits] != [len(stream) for stream in view.streams]:
        return Causality(problem="the model gives another number of logits than the batch has positions")
    if not all(all_finite(rows) or can_be_learnt(rows) for rows in logits):
        return Causality(problem="the logits are not finite")
    if model.training and not repeats(logits, stream_logits(forward(model, adapter, batch), len(logits))):
        with preserved(model):
            model.eval()
            told = causality(model, adapter, batch, seen, seed)
        told.notes.append("the model draws from a random state of its own in training: cut in evaluation mode")
        return told
    movement = perturbed(model, adapter, batch, base)
    told = Causality(runs=list(_runs(seen, layout)), movement=movement)
    generator = torch.Generator().manual_seed(seed)
    leaks: list[Tensor] = [torch.zeros_like(stream.segment) for stream in view.streams]

    def moving(cuts: dict[tuple[int, int], str]) -> list[Tensor]:
        """Per stream, the rows that move when everything from these cuts on is replaced."""
        other = _replaced(model, adapter, batch, seen, layout, cuts, generator)
        changes = row_changes(logits, stream_logits(forward(model, adapter, other), len(view.streams)))
        return [
            ~(change <= movement.allowed(stream.name, SAME_ORDER))
            for change, stream in zip(changes, view.streams, strict=True)
        ]

    for cuts in _rounds(told.runs, seen):
        moved = moving(cuts)
        ahead = [
            torch.where(m & b, d, 0)
            for m, (b, d) in zip(moved, (_before(seen, layout, cuts, n) for n in range(len(moved))), strict=True)
        ]
        leaks = [torch.maximum(a, b) for a, b in zip(leaks, ahead, strict=True)]
        told.cuts += [_cut(seen, layout, told.runs, cut, what, moved) for cut, what in cuts.items()]
    told.cuts.sort(key=lambda cut: (cut.sample, cut.position))
    if told.cuts and not any(cut.moved for cut in told.cuts):
        return Causality(problem="the logits do not depend on the inputs: no row moves, whatever is replaced")
    judge(told, seen, layout, leaks, movement, moving)
    excuse = routes_by_capacity(model) if told.findings else ""
    if excuse:
        return Causality(problem=f"rows move with inputs after them, but {excuse}")
    return told


def _runs(seen: Witness, layout: Layout) -> Iterator[Run]:
    """The stretches of one kind and segment, padding left out."""
    text = seen.view.streams[0]
    keys = torch.stack([text.sample, text.segment, layout.kind]).T.tolist()
    rows = text.row.tolist()
    begin = 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[begin]:
            sample, segment, kind = keys[begin]
            if segment >= 0:
                yield Run(sample, layout.kinds[kind], rows[begin], rows[index - 1])
            begin = index


def _rounds(runs: Sequence[Run], seen: Witness) -> Iterator[dict[tuple[int, int], str]]:
    """Cuts of one forward each: at most one in a sample, each kind of cut in the sample that has fewest."""
    candidates: dict[str, dict[int, int]] = {}
    for run in runs:  # later stretches replace earlier ones: the last is the one that is trained
        for number, share in enumerate(INSIDE):
            # an odd distance lies inside every block of an even size, should attention go by blocks
            position = run.first + (int(share * (run.last - run.first)) | 1)
            if position <= run.last:
                candidates.setdefault(f"inside {run.kind} ({number + 1})", {})[run.sample] = position
    for one, other in pairwise(runs):
        if one.sample == other.sample:
            candidates.setdefault(f"from {one.kind} to {other.kind}", {})[one.sample] = other.first
    for sample, position in _after_trained_padding(runs, seen):
        candidates.setdefault("from padding to text", {})[sample] = position
    queues: dict[int, list[tuple[tuple[int, int], str]]] = {}
    for what, places in candidates.items():
        sample = min(places, key=lambda one: (len(queues.get(one, ())), one))
        queues.setdefault(sample, []).append(((sample, places[sample]), what.partition(" (")[0]))
    for number in range(max(map(len, queues.values()), default=0)):
        yield dict(queue[number] for queue in queues.values() if number < len(queue))


def _after_trained_padding(runs: Sequence[Run], seen: Witness) -> Iterator[tuple[int, int]]:
    """The first real position of samples whose last padding row before it is trained."""
    text = seen.view.streams[0]
    trained = seen.trained(0) & (text.segment < 0)
    for sample in sorted({run.sample for run in runs}):
        first = min(run.first for run in runs if run.sample == sample)
        if bool((trained & (text.sample == sample) & (text.row == first - 1)).any()):
            yield sample, first


def _before(seen: Witness, layout: Layout, cuts: dict[tuple[int, int], str], number: int) -> tuple[Tensor, Tensor]:
    """Of one stream: rows before the cut of their sample, and how far ahead it lies (1: a row's own target).

    A sample without a cut is all before: nothing of it was replaced.
    """
    stream, positions = seen.view.streams[number], layout.positions[number]
    ahead = torch.ones_like(positions)
    before = torch.ones_like(positions, dtype=torch.bool)
    for sample, position in cuts:
        mine = stream.sample == sample
        ahead = torch.where(mine, position - positions, ahead)
        before &= ~mine | (positions < position)
    return before & ((stream.segment >= 0) | seen.trained(number)), ahead


def _replaced(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    layout: Layout,
    cuts: dict[tuple[int, int], str],
    generator: torch.Generator,
) -> Batch:
    """The batch with random other inputs from the cut of every sample on."""
    view = seen.view
    usable = adapter.usable_ids(model, view).to(view.streams[0].ids.device)
    ids, later = [], []
    for stream, positions in zip(view.streams, layout.positions, strict=True):
        mine = torch.zeros_like(positions, dtype=torch.bool)
        for sample, position in cuts:
            mine |= (stream.sample == sample) & (positions >= position)
        drawn = torch.randint(len(usable), (len(stream),), generator=generator).to(usable.device)
        fresh = torch.where(usable[drawn] == stream.ids, usable[(drawn + 1) % len(usable)], usable[drawn])
        ids.append(torch.where(mine, fresh, stream.ids))
        later.append(mine)
    other = adapter.relabel(model, batch, view, ids, int(usable[0]))
    return adapter.redraw_references(model, other, later[0], generator)


def _cut(
    seen: Witness,
    layout: Layout,
    runs: Sequence[Run],
    cut: tuple[int, int],
    what: str,
    moved: Sequence[Tensor],
) -> Cut:
    sample, place = cut
    mine = [run for run in runs if run.sample == sample]
    first, last = mine[0].first, mine[-1].last
    found: dict[int, bool] = {}
    for stream, positions, rows in zip(seen.view.streams, layout.positions, moved, strict=True):
        for position in positions[rows & (stream.sample == sample) & (stream.segment >= 0)].tolist():
            found[position] = position < place
    cells = [UNMOVED] * CELLS
    for position, leak in sorted(found.items(), key=lambda item: item[1]):  # leaks last: they must show
        cells[(position - first) * CELLS // (last - first + 1)] = LEAK if leak else MOVED
    leaking = sum(found.values())
    return Cut(sample, place, what, leaking, len(found) - leaking, "".join(cells))


def causality_check(told: Causality, padding: str) -> Check:
    """The line of the checklist; ``padding`` says what other padding changed."""
    if told.findings:
        return Check("causality", TITLE, "fail", named(told.findings))
    if told.problem == "the logits are not finite":
        return Check("causality", TITLE, "fail", told.problem)
    if told.problem or not told.cuts:
        return Check("causality", TITLE, "skip", told.problem or "no sample is long enough to be cut")
    kinds = ", ".join(dict.fromkeys(run.kind for run in told.runs))
    where = f"{len(told.cuts)} cuts inside and between {kinds}"
    return Check("causality", TITLE, "pass", f"{where}: nothing before them moves; {padding}")
