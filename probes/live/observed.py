"""What the watched steps showed: the forwards that could be read as one witness, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment import Finding, InputError
from alignment.findings import finding

from ..checks.reduction import Reduced, Reduction
from ..models.adapter import Adapter, OtherCheckpointError, View
from ..models.modules import unwrapped
from ..witness.blind import SPARED, blind_spots
from ..witness.judgement import judge_loss, labels_dropped
from ..witness.label_rules import label_findings
from ..witness.witness import Witness
from .backwards import Read, by_backward, micro_batches, weights_of_steps
from .chosen import without_chosen
from .declared_reduction import held_to
from .expected import Expectation, expectations
from .forwards import Forward
from .further import called_apart, lent_labels, settled_heads
from .joined import Joined, Part, join
from .kept_back import without_silent
from .lent_twins import as_trained
from .micro_batches import accumulation
from .placing import place
from .step_weights import StepWeights
from .whole_step import of_the_count

__all__ = ["Nothing", "Observed", "observe"]

#: What the labels show by themselves; what the loss makes of labels out of place shows in what it trains.
TOLD_OF_LABELS = ("LA203", "LA207", "LA208", "LA502")


class Nothing(Exception):  # noqa: N818 - not an error: there is nothing to tell
    """Nothing of the run could be read; the message says why."""


@dataclass
class Observed:
    """What the watched steps showed.

    Attributes:
        witness: of all forwards that could be read, as one batch.
        expected: what each of its streams must train, and whether labels say so.
        parts: what each forward read.
        steps: how many steps were watched.
        backward: (R,) int64 per stream, the number of the backward that trained a row.
        even: why their micro-batches cannot be compared; empty if they were, and weigh alike.
        problems: why forwards could not be read.
        forwards: those that could, one for each part.
        weights: per step and kind of stream, what its targets weigh, where all of them were read.
        reduced: what was found of a declared reduction; None where none is.
    """

    witness: Witness
    expected: Sequence[Expectation]
    parts: Sequence[Part]
    steps: int
    backward: Sequence[Tensor] = ()
    even: str = ""
    problems: Sequence[str] = ()
    forwards: Sequence[Forward] = ()
    weights: Sequence[dict[str, StepWeights]] = ()
    reduced: Reduced | None = None

    @property
    def adapter(self) -> Adapter | None:
        """Whose heads were read; None where no forward was."""
        return self.forwards[0].adapter if self.forwards else None

    def add(self, findings: Sequence[Finding]) -> None:
        """Add what was found beside the watched heads."""
        self.witness = replace(self.witness, findings=(*self.witness.findings, *findings))


def observe(
    steps: Sequence[Sequence[Forward]],
    *,
    stepped: bool = True,
    template: Callable[[View], View] | None = None,
    alone: bool = True,
    reduction: Reduction | None = None,
) -> Observed:
    """Judge what the steps trained.

    Args:
        steps: the forwards of every step.
        stepped: whether an optimizer was seen to make them steps.
        template: what else is known of their text.
        alone: whether no other rank has a part in the steps.
        reduction: what their weights are declared to keep to; None if nothing is.

    Raises:
        Nothing: no forward, no gradient, or none that can be placed.
        OtherCheckpointError: a batch that was made for another checkpoint.
    """
    graded = any(one.graded for step in steps for one in step)
    read, joined, problems = _joined(steps, graded=graded)
    joined = joined if template is None else _with_template(joined, template)
    forwards = [forward for step in read for forward, _ in step]
    lent = torch.tensor([one.lends_labels for one in forwards])[joined.part[0]]
    joined = as_trained(joined, lent)
    expected = expectations(joined, lent)
    if bool(lent.any()) and not expected[0].known:  # labels that the loss does not use
        joined = replace(joined, view=replace(joined.view, labels=(None, *joined.view.labels[1:])))
    chosen: list[Finding] = []
    if graded:
        excused = _excused(expected, joined, lent, forwards)
        first, chosen = without_chosen(expected[0], excused[0], joined, forwards)
        expected = [first, *expected[1:]]
    supervisions = tuple(one.supervision for one in expected)
    evened, backward = by_backward(joined, read)
    findings, actual, notes = _swallowed(steps, stepped=stepped), (), joined.view.notes
    if graded:
        told = judge_loss(joined.view, supervisions, joined.actual, weights=evened, apart=backward)
        supervisions, actual, notes = told.expected, told.actual, (*notes, *told.notes)
        findings += _not_finite(forwards) or [*_label_findings(joined, expected), *told.findings, *chosen]
    books = sum(stream.is_audio for stream in joined.view.streams)
    unequal, even = accumulation(micro_batches(read) if graded and stepped else [], books)
    if reduction == "sequence-mean":  # which asks for targets that weigh differently
        unequal, even = [], "a mean over samples is declared"
    findings += [*unequal, *_labels_dropped(forwards, findings)]
    weights = weights_of_steps(read, joined, expected) if graded and stepped else []
    findings += of_the_count(weights, findings) if alone else []
    reduced = None
    if reduction is not None and graded:
        whole = [{kind: [one] for kind, one in step.items()} for step in weights] if alone else []
        findings, reduced = held_to(reduction, whole, findings)
    if graded:
        findings += _blind(joined, expected, findings, problems)
    inner = frozenset(key for one in forwards for key in one.adapter.label_keys if one.received.get(key) is not None)
    outer = frozenset(key for one in forwards for key in one.outer or {})
    witness = Witness(joined.view, supervisions, actual, tuple(findings), None, outer, inner, notes)
    parts = [part for step in read for _, part in step]
    told = (parts, len(steps), backward if graded else (), even, problems, forwards, weights, reduced)
    return Observed(witness, expected, *told)


def _joined(steps: Sequence[Sequence[Forward]], *, graded: bool) -> tuple[Read, Joined, list[str]]:
    """What could be read, the same as one batch, and why the rest could not; heads and calls held to what they are.

    Raises:
        Nothing: no forward can be placed.
        OtherCheckpointError: a batch that was made for another checkpoint.
    """
    read, problems = _read(steps, graded=graded)
    if not any(read):
        raise Nothing(problems[0] if problems else "no gradient reached the model's output head")
    joined = join([part for step in read for _, part in step])
    for told in (settled_heads, called_apart, settled_heads):
        if told([one for step in steps for one in step], joined):
            read, problems = _read(steps, graded=graded)
            joined = lent_labels(join([part for step in read for _, part in step]))
    return read, joined, problems


def _with_template(joined: Joined, template: Callable[[View], View]) -> Joined:
    """The same with what the template says of the text: its ends, its roles, and labels where no forward had any."""
    untold = joined.unlabelled[0]
    if joined.view.labels[0] is not None and bool(untold.any()):
        return joined  # labels of some forwards alone say nothing of the others' text
    view = template(joined.view)
    untold = untold & torch.tensor(view.labels[0] is None)
    actual = replace(joined.actual[0], stream=view.streams[0])
    return replace(joined, view=view, actual=(actual, *joined.actual[1:]), unlabelled=(untold, *joined.unlabelled[1:]))


def _excused(
    expected: Sequence[Expectation], joined: Joined, lent: Tensor, forwards: Sequence[Forward]
) -> Sequence[Expectation]:
    """The same, and ``lent`` rows that a script says are targets need not be trained where their weight may be zero."""
    if not bool(lent.any()):
        return expected
    first = expected[0]
    clipped = torch.tensor([one.lends_a_mask for one in forwards])[joined.part[0]]
    due = without_silent(first.supervision, joined.actual[0], lent, clipped)
    count = int((first.supervision.trained & ~due.trained).sum())
    note = (
        f"{count} rows that the script keeps as targets have no gradient (a weight of zero, a clipped ratio): that is "
        "stated alone"
    )
    return [replace(first, supervision=due, note=note if count else first.note), *expected[1:]]


def _read(steps: Sequence[Sequence[Forward]], *, graded: bool) -> tuple[Read, list[str]]:
    """Per step the forwards that have gradients (or have none), as far as they can be placed; why others cannot.

    Raises:
        OtherCheckpointError: a batch that was made for another checkpoint.
    """
    read: Read = []
    problems = []
    for step in steps:
        mine = []
        for forward in step:
            if bool(forward.graded) is not graded:
                continue
            try:
                mine.append((forward, Part(*place(forward))))
            except OtherCheckpointError:
                raise
            except InputError as error:
                problems.append(str(error))
        read.append(mine)
    return read, problems


def _blind(
    joined: Joined, expected: Sequence[Expectation], found: Sequence[Finding], problems: Sequence[str]
) -> list[Finding]:
    """Rows that nobody could read or hold against anything, and forwards that could not be placed."""
    none = [torch.zeros_like(one.soft) for one in joined.actual]
    untold = [empty if one.untold is None else one.untold for one, empty in zip(expected, none, strict=True)]
    supervisions = [one.supervision for one in expected]
    out = blind_spots(supervisions, joined.actual, untold, found, spared=SPARED)
    for one, actual in zip(expected, joined.actual, strict=True):
        name = actual.stream.name
        count = int((actual.trained | actual.soft).sum())
        if not one.judged and one.untold is not None and count:
            out = [found for found in out if (found.code, found.stream) != ("LA804", name)]
            out.append(finding("LA804", name, f"{count} rows of {name} are trained and none was judged: {one.why}"))
        if one.unused and not any((found.code, found.stream) == ("LA804", name) for found in out):
            out.append(finding("LA804", name, one.unused))
    known = {(one.code, one.stream) for one in found}  # what nobody can read is why nothing was compared
    out = [one for one in out if (one.code, one.stream) not in known]
    if problems:
        message = f"{len(problems)} forward passes could not be read: {problems[0]}"
        out.append(finding("LA803", "all", message, count=len(problems)))
    return out


# -- findings ---------------------------------------------------------------------------------------


def _swallowed(steps: Sequence[Sequence[Forward]], *, stepped: bool) -> list[Finding]:
    """LA605: no gradient has reached the logits of any forward of a step, or of one that has labelled targets."""
    empty = [step for step in steps if not any(one.graded for one in step)]
    if empty and stepped:
        message = (
            f"in {len(empty)} of {len(steps)} watched steps the optimizer stepped and no gradient had reached the "
            f"model's logits ({sum(map(len, empty))} forward passes): the loss was a constant, or was cut off from them"
        )
        return [finding("LA605", "all", message, count=len(empty))]
    silent = [one for step in steps for one in step if not one.graded and not _repeated(one, step)]
    labelled = [one for one in silent if _is_labelled(one)]
    cut = [one for one in labelled if one.dropped]
    total = sum(map(len, steps))
    if cut:
        message = (
            f"{len(cut)} of {total} forward passes had labelled targets, and the backward pass after them began at a "
            "constant or at what is cut off from their logits: an error was swallowed, or the loss was detached"
        )
        return [finding("LA605", "all", message, count=len(cut))]
    doubtful = labelled or [one for one in silent if one.dropped and _is_labelled(one) is None]
    if not doubtful:
        return []
    what = "in train mode had labelled targets and no gradient" if labelled else "had a backward pass from a constant"
    message = f"{len(doubtful)} of {total} forward passes {what}: their loss was dropped, or was a constant"
    return [finding("LA605", "all", message, count=len(doubtful), severity="warning")]


def _repeated(forward: Forward, step: Sequence[Forward]) -> bool:
    """Whether the same ids went through the model once more, and that time were trained (a forward for the log)."""

    def ids(one: Forward) -> list[Tensor]:
        return [value for value in one.received.values() if isinstance(value, Tensor)]

    mine = ids(forward)
    return any(one.graded and len(ids(one)) == len(mine) and all(map(torch.equal, ids(one), mine)) for one in step)


def _is_labelled(forward: Forward) -> bool | None:
    """Whether a forward has labelled targets; None where its labels were not seen."""
    try:
        seen = [labels for labels in forward.view.labels if labels is not None]
    except InputError:
        return None
    return any(bool((labels >= 0).any()) for labels in seen) if seen else None


def _not_finite(forwards: Sequence[Forward]) -> list[Finding]:
    broken = [call.head.name for one in forwards for call in one.calls if not call.finite]
    if not broken:
        return []
    return [finding("LA501", broken[0], f"the logits of the {broken[0]} head are not finite", count=len(broken))]


def _label_findings(joined: Joined, expected: Sequence[Expectation]) -> list[Finding]:
    """What the labels show by themselves, where they follow a convention at all."""
    labels = tuple(given if one.judged else None for given, one in zip(joined.view.labels, expected, strict=True))
    return [
        found
        for found in label_findings(replace(joined.view, labels=labels))
        if found.code in TOLD_OF_LABELS or found in joined.view.findings
    ]


def _labels_dropped(forwards: Sequence[Forward], found: Sequence[Finding]) -> list[Finding]:
    """LA601: labels that a wrapper was given and the innermost forward was not."""
    for one in forwards:
        given = {key for key, value in one.received.items() if value is not None}
        dropped = sorted((set(one.outer or {}) & set(one.adapter.label_keys)) - given)
        own = unwrapped(one.model) is not one.adapter.inner(one.model)
        told = labels_dropped(dropped if one.inner_seen else (), found, own=own)
        if told:
            return told
    return []
