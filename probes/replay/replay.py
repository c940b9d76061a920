"""The second witness: the loss is run again with other inputs, and what its heads then give says what a row has read.

Everything from a cut on is replaced by random other tokens and codes, and so are the other documents of the sample.
In the forward that the loss itself makes, no row may move that is trained on a token before or at the cut. Shapes
stay the same, so that no more than one rounding is allowed. (Poisoning later inputs with NaN would not do: 0 · NaN
passes through an attention mask.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from alignment import Supervision

from ..host.preserve import preserved
from ..host.sharded import runs_together
from ..models.adapter import Batch, Head, View
from ..models.forward import all_finite, can_be_learnt, spelled_out
from ..models.modules import routes_by_capacity
from .calls import BeyondError, Call, NotReplayedError, Run, Scene
from .cuts import MOST, Place, Places, layout_of, rounds, runs_of
from .given import streams_of
from .in_turn import without_own_frame
from .leaks import Leaks, told_leaks
from .perturbation import SAME_ORDER, Movement, more_rounding, moved_by, repeats
from .reading import Reading
from .renamed import Renamed
from .run import run_loss
from .soft import drifts, names_many, soft_findings
from .strip import strip_of
from .told import Causality
from .twins import has_twins, rows_placed

__all__ = ["MOST", "replay"]


def replay(
    scene: Scene,
    batch: Batch,
    told: Sequence[Supervision],
    *,
    seed: int = 0,
    most: int | None = MOST,
    drawn: int | None = None,
) -> Causality:
    """Cut inside what is trained and at its borders, and see which rows move.

    Args:
        scene: the loss on a model.
        batch: that the loss is given.
        told: what is trained, per stream: the rows, and where their targets were taken from.
        seed: of the tokens that are put in.
        most: how many cuts; None cuts at every position.
        drawn: the sample whose map is drawn ahead of others.
    """
    model, adapter, view = scene.model, scene.adapter, scene.view
    if runs_together(model):
        return Causality(problem="its parameters are sharded over processes, which would have to run along")
    try:
        places = Places.of(view, layout_of(adapter, model, batch, view), told, _judged(view, told))
        runs = _Replay(scene, spelled_out(model, adapter, batch), places, seed, most, drawn)
        try:
            return runs.run()
        except BeyondError:  # the loss has fewer columns than the head
            return replace(runs, known=True).run()
    except NotReplayedError as error:
        return Causality(problem=str(error))


def _judged(view: View, told: Sequence[Supervision]) -> list[Tensor]:
    """(R,) bool per stream: rows whose causality is judged; a masked objective reads both sides by intention."""
    return [
        torch.zeros_like(one.soft) if number in view.masked else one.trained | one.soft
        for number, one in enumerate(told)
    ]


@dataclass
class _Replay:
    """The runs of one loss on one batch; with ``apart`` its rows are placed by a run at which no samples are alike."""

    scene: Scene
    batch: Batch
    places: Places
    seed: int
    most: int | None
    drawn: int | None = None
    movement: Movement | None = None
    known: bool = False
    apart: bool = False
    elsewhere: bool = False
    renamed: Renamed = field(init=False)
    heads: Sequence[Head] = ()
    base: Run = field(default_factory=Run)
    rows: list[list[Tensor] | None] = field(default_factory=list)
    uses: Sequence[Tensor] = ()

    def run(self) -> Causality:
        """All of it; in evaluation mode where the model draws from a random state of its own in training."""
        told = self._judge()
        if told is not None:
            return told
        with preserved(self.scene.model):
            self.scene.model.eval()
            told = self._judge()
        if told is None:
            return Causality(problem="two runs of one batch differ by more than rounding")
        told.notes.append("the model draws from a random state of its own in training: cut in evaluation mode")
        return told

    def _judge(self) -> Causality | None:
        """What the cuts show; no row is accused that is so by one of two ways to place samples that are alike."""
        told = self.told()
        if told is None or told.problem or not self.elsewhere:
            return told
        try:
            apart = replace(self, apart=True).told()
        except NotReplayedError:
            return told
        if apart is None or apart.problem:
            return told
        if apart.findings and not told.findings:
            which = "samples of the batch are alike, and of which of them these are shows under other ids alone"
            return Causality(problem=f"rows move with inputs after them, but {which}")
        return told if apart.findings else apart

    def told(self) -> Causality | None:
        """What the cuts show; None where the model does not repeat itself."""
        self.renamed = Renamed.of(self.scene, self.batch, self.places, seed=self.seed, known=self.known)
        self.heads = self.scene.adapter.heads(self.scene.model, self.scene.view)
        self.base = run_loss(self.scene, self.renamed.plain(), gradients=True)
        plain, apart = rows_placed(self.scene, self.base, self.renamed)
        self.elsewhere = apart is not None
        self.rows, self.uses = apart or plain if self.apart else plain
        problem = self._unfit()
        if problem:
            return Causality(problem=problem)
        soft = any(names_many(call, self._judged_rows(number)) for number, call in enumerate(self.base.calls))
        if not soft:
            self.base.forget_gradients()
        told = Causality(runs=list(runs_of(self.places)))
        leaks = Leaks.none(self.places)
        reading = Reading(self.places)
        for cuts in rounds(told.runs, self.places, self.most):
            moved = self.moving(cuts)
            if moved is None:
                return None
            leaks.add(cuts, moved)
            reading.add(cuts, moved)
            told.cuts += [strip_of(self.places, told.runs, cut, moved) for cut in cuts]
        told.cuts.sort(key=lambda cut: (cut.sample, cut.position))
        told.movement = self.movement
        if told.cuts and not any(cut.moved for cut in told.cuts):
            return Causality(problem="the logits do not depend on the inputs: no row moves, whatever is replaced")
        if soft:
            self._add_soft(told)
            self.base.forget_gradients()
        told_leaks(told, leaks, self.moving, self.movement)
        leaks.cover(told)
        told.maps = reading.maps(leaks, self.moving, self.drawn)
        excuse = routes_by_capacity(self.scene.model) if told.findings else ""
        excuse = excuse or (self._mixed(told) if soft else "") or self._alike(told)
        return Causality(problem=f"rows move with inputs after them, but {excuse}") if excuse else told

    def _mixed(self, told: Causality) -> str:
        """That the loss mixes samples before the model reads them (mixup), where other samples alone move its rows.

        Each row is then trained on the tokens of several: of rows with one target, what moves them is a leak.
        """
        if not told.by_samples:
            return ""
        first = int(self.places.view.streams[0].sample[0])
        run = run_loss(self.scene, self.renamed.cut([Place(first, 0, -1, "")]), self.base, rows_only=True)
        for before, after in zip(self.base.forwards, run.forwards, strict=False):
            one, other = (forward.received.get("inputs_embeds") for forward in (before, after))
            known = (
                isinstance(one, Tensor) and isinstance(other, Tensor) and one.dim() == 3 and one.shape == other.shape
            )
            if known and int((one != other).flatten(1).any(1).sum()) > 1:
                return "the loss mixes samples in the embeddings that it gives the model (mixup)"
        return ""

    def _alike(self, told: Causality) -> str:
        """That samples are alike token by token, and some are given again: of which of them a row is, nothing shows."""
        if not told.by_samples or not any(bool((uses > 1).any()) for uses in self.uses):
            return ""
        alike = "samples of the batch are alike, and the model is given some of them more than once"
        return alike if has_twins(self.places.view) else ""

    def moving(self, cuts: Sequence[Place], *, suffix: bool = True, others: bool = True) -> list[Tensor] | None:
        """Per stream, the rows that move when what these cuts name is replaced; None where runs do not repeat."""
        changes = self._changes(cuts, suffix=suffix, others=others)
        if self.movement is None and self._doubtful(cuts, changes):
            again = run_loss(self.scene, self.renamed.plain(), self.base, rows_only=True)
            if not repeats([call.compared for call in self.base.calls], [call.change for call in again.calls]):
                return None
            self.movement = self._measured()
        moved = self._beyond(changes)
        if not suffix:
            return moved

        def moving_since(book: int) -> list[Tensor]:
            return self._beyond(self._changes(cuts, others=others, since=book))

        return without_own_frame(moved, cuts, self.places, self.heads, moving_since)

    def _changes(
        self, cuts: Sequence[Place], *, suffix: bool = True, others: bool = True, since: int | None = None
    ) -> list[Tensor]:
        batch = self.renamed.cut(cuts, suffix=suffix, others=others, since=since)
        return self._by_stream(run_loss(self.scene, batch, self.base, rows_only=True))

    def _beyond(self, changes: Sequence[Tensor]) -> list[Tensor]:
        """(R,) bool per stream: rows that move by more than rounding explains."""
        pairs = zip(changes, self.places.view.streams, strict=True)
        limits = self.movement or Movement()
        return [~(change <= limits.allowed(stream.name, SAME_ORDER)) for change, stream in pairs]

    def _add_soft(self, told: Causality) -> None:
        """What the gradients of soft targets move with, at a few cuts whatever else is asked for."""
        cuts = rounds(told.runs, self.places, min(self.most or MOST, MOST))
        try:
            told.soft, notes = soft_findings(self.places, cuts, self._drifting)
        except NotReplayedError:  # a loss that holds its labels to its ids
            return
        told.notes += notes

    def _drifting(self, cuts: Sequence[Place]) -> list[Tensor]:
        """Per stream, the rows whose gradient moves with the cuts, labels kept."""
        adapter, batch = self.scene.adapter, self.renamed.cut(cuts)
        made = () if "decoder_input_ids" in self.batch else getattr(adapter, "id_keys", ())  # of labels, by some
        kept = {key: self.batch[key] for key in adapter.label_keys if key in self.batch and key not in made}
        run = run_loss(self.scene, {**batch, **kept}, self.base, gradients=True, rows_only=True)
        moved = [torch.zeros_like(stream.filler) for stream in self.places.view.streams]
        for before, after, rows in zip(self.base.calls, run.calls, self.rows, strict=True):
            if rows is None or before.gradient is None:
                continue
            found = drifts(before, after)
            for offset, number in enumerate(streams_of(before)):
                mine, at = found[offset :: before.books].to(moved[number].device), rows[offset]
                moved[number][at[at >= 0]] |= mine[at >= 0]
        return moved

    def _doubtful(self, cuts: Sequence[Place], changes: Sequence[Tensor]) -> bool:
        """Whether any row has moved that must not, by however little: what rounding does is then measured."""
        probe = Leaks.none(self.places)
        probe.add(cuts, [~(change <= 0) for change in changes])
        return any(bool(ahead.any()) for ahead in (*probe.ahead, *probe.untrained))

    def _measured(self) -> Movement:
        with more_rounding(self.scene.model):
            run = run_loss(self.scene, self.renamed.plain(), self.base, rows_only=True)
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for before, call in zip(self.base.calls, run.calls, strict=True):
            assert call.change is not None
            audio = self.places.view.streams[call.head.streams[0]].is_audio
            pairs.setdefault("audio" if audio else "text", []).append((before.compared, call.change))
        return Movement(**{kind: max(moved_by(*pair) for pair in found) for kind, found in pairs.items()})

    # -- rows ------------------------------------------------------------------------------------

    def _judged_rows(self, number: int) -> Tensor:
        """(r,) int64: the rows of a call whose causality is judged."""
        call, placed = self.base.calls[number], self.rows[number]
        out = torch.zeros(len(call.values), dtype=torch.bool, device=call.values.device)
        for offset, (stream, at) in enumerate(zip(streams_of(call), placed or (), strict=False)):
            out[offset :: call.books] = ((at >= 0) & self.places.trained[stream][at.clamp(min=0)]).to(out.device)
        return torch.nonzero(out).reshape(-1)

    def _unfit(self) -> str:
        """Why the runs cannot be judged; empty if they can."""
        if not self.base.calls:
            return "no head of the model is called with gradients on"
        if not all(all_finite(call.values) or can_be_learnt(call.values) for call in self.base.calls):
            return "the logits are not finite"
        missing = self._missing()
        return f"the logits of {', '.join(missing)} could not be placed in the batch" if missing else ""

    def _missing(self) -> list[str]:
        placed = self._by_stream(self.base)
        return [
            stream.name
            for stream, trained, known in zip(self.places.view.streams, self.places.trained, placed, strict=True)
            if bool(trained.any()) and bool((known[trained] < 0).all())
        ]

    def _by_stream(self, run: Run) -> list[Tensor]:
        """Per stream, (R,): how far each row has moved; of the base 0 where a row was given at all, else -1."""
        changes = [torch.full(stream.ids.shape, -1.0, device=stream.ids.device) for stream in self.places.view.streams]
        for call, rows in zip(run.calls, self.rows, strict=True):
            if rows is None:
                continue
            for offset, number in enumerate(streams_of(call)):
                mine, at = _change(call)[offset :: call.books].to(changes[number]), rows[offset]
                known, into = at >= 0, changes[number]
                into[at[known]] = torch.maximum(into[at[known]], mine[known])  # NaN stays
        return changes


def _change(call: Call) -> Tensor:
    return torch.zeros(len(call.values)) if call.change is None else call.change
