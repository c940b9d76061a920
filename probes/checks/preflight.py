"""Preflight: the whole checklist on a model, a batch and a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from alignment import Convention, Finding
from alignment.pairing import Policy

from ..models import Adapter, Batch
from ..models.adapter import LabelsAs, labels_as
from ..models.forward import Outputs, forward, shapes_of
from ..records.choice import Keep
from ..records.report import CHECKLIST, Report
from ..report.words import in_words
from ..witness.subject import Subject
from ..witness.with_roles import Template
from ..witness.witness import LossFunction, Options, Witness
from .causality import Replays
from .checklist import fallback_path, loss_value, text_length, training_step
from .engine import Engine, default_loss
from .model_checks import model_checks
from .own_model import checks_of_loss, why_no_outputs
from .reduction import Reduced, Reduction, check_reduction, counted_loss
from .reported import report_of
from .training import Steps, take_steps, taken_or_why
from .watch import Watch, watch
from .witness_checks import kinds_of

__all__ = ["CONVENTIONS", "Plan", "preflight"]

ORDER = (*CHECKLIST, "reduction", "peft", "causality", "decode")
CONVENTIONS: Mapping[LabelsAs, Convention] = {
    "position-aligned": Convention.POSITION_ALIGNED,
    "pre-shifted": Convention.PRE_SHIFTED,
    "none": Convention.POSITION_ALIGNED,
}


@dataclass
class Plan:
    """What to check.

    Attributes:
        model: on its device, in its dtype.
        adapter: of the model.
        batch: on the same device, labels handed as ``labels`` says.
        loss: the user's loss; None checks the engine's own.
        labels: how the batch hands its labels to the model.
        policy: how the engine's own loss pairs.
        random_init: whether the weights are random (the loss must then lie near ln V).
        name: of the model, for the report.
        seed: of the run.
        keep: which findings count.
        task_types: of PEFT that break the bare model, each with the reason.
        tokenizer: of the batch, to write tokens with; None if it has none.
        replay: how much is run again with other inputs: a few cuts, nothing, or a cut at every position.
        template: what its chat template says of the batch, and whose text is to be trained.
        findings: found before (label rules of the data path).
        notes: said before.
    """

    model: nn.Module
    adapter: Adapter
    batch: Batch
    loss: LossFunction | None = None
    labels: LabelsAs = "position-aligned"
    policy: Policy = "evidence"
    random_init: bool = True
    name: str = ""
    seed: int = 0
    reduction: Reduction | None = None
    grad_accum: int = 1
    keep: Keep | None = None
    task_types: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Any = None
    replay: Replays = True
    template: Template | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = labels_as(self.labels)

    @property
    def options(self) -> Options:
        """How the loss is watched."""
        return Options(convention=CONVENTIONS[self.labels], withhold=self.labels == "none", told=self.template)

    @property
    def asked(self) -> LossFunction:
        """The loss that is checked: the user's, or the engine's own."""
        return self.loss or default_loss(self.adapter, self.policy)

    def watched(self) -> Watch:
        """What the loss trains; raises what :func:`watch` raises."""
        loss_fn = counted_loss(self.asked, self.model, self.adapter, self.batch, self.options)
        return watch(self.model, self.adapter, self.batch, loss_fn, self.options)

    def report_of(self, seen: Witness, findings: Sequence[Finding], reduced: Reduced | None = None) -> Report:
        """The report of what was seen, with these findings, and of a declared reduction."""
        how = {"withheld": self.labels == "none", "name": self.name, "seed": self.seed}
        found = {"findings": findings, "keep": self.keep, "reduced": reduced}
        return report_of(self.model, self.adapter, self.batch, seen, **found, **how)


def preflight(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Run the checklist.

    Raises:
        UsageError: the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    model, adapter, batch = plan.model, plan.adapter, plan.batch
    adapter.check_batch(model, batch)
    asked = plan.asked
    progress("watching the loss")
    watched = plan.watched()
    subject = watched.subject
    adapter, seen = subject.adapter, subject.seen
    plan = replace(plan, adapter=adapter)
    told = {(f.code, f.stream) for f in plan.findings}  # the data path's rules know more: theirs goes first
    found = [*plan.findings, *(f for f in seen.findings if (f.code, f.stream) not in told)]
    reduced = None
    if plan.reduction is not None or plan.grad_accum > 1:
        progress("splitting the batch")
        reduced = check_reduction(model, adapter, batch, asked, plan.reduction, plan.grad_accum, plan.options)
        found = reduced.settled(found)
    found += watched.findings
    report = plan.report_of(seen, found, reduced)
    report.notes += [*watched.notes, *plan.notes]
    in_words(report, plan.tokenizer, adapter.special_ids)
    why = why_no_outputs(model, adapter, batch, seen.view)
    if why:
        progress("training steps")
        report.checks += checks_of_loss(why, subject, kinds_of(seen))
        outputs = None
    else:
        outputs = _seed_checks(plan, report, subject, progress)
    model_checks(report, outputs, subject, plan.task_types, plan.keep, progress, plan.replay)
    if report.findings:
        from ..line import with_lines  # a clean loss has nothing to explain

        progress("looking for the lines")
        report.findings = with_lines(report.findings, subject)
    report.checks.sort(key=lambda check: ORDER.index(check.id))
    return report


def _seed_checks(plan: Plan, report: Report, subject: Subject, progress: Callable[[str], None]) -> Outputs:
    """The seed's five checks, on real forward passes of a model whose outputs are known; hands those on."""
    model, adapter, batch, seen = subject.model, subject.adapter, subject.batch, subject.seen
    withheld = plan.labels == "none"
    progress("real forward passes")
    outputs = forward(model, adapter, batch, labels=not withheld)
    engine = Engine.run(model, adapter, outputs, batch, seen.view, seen.expected, plan.policy)
    report.shapes = shapes_of(outputs)
    _decide(report, engine)
    fallback = _fallback(plan, subject, engine)
    progress("training steps")
    steps = _steps(plan, subject, engine)
    _losses(report, engine, steps, own=plan.loss is None)
    findings = report.findings
    report.checks += [
        text_length(engine, findings),
        *(loss_value(kind, engine, findings, random_init=plan.random_init) for kind in kinds_of(seen)),
        fallback_path(fallback, expands=fallback.outputs.expanded_input_ids is not None),
        training_step(steps, findings),
    ]
    return outputs


def _fallback(plan: Plan, subject: Subject, engine: Engine) -> Engine:
    """The engine on a forward without labels: ``engine`` itself where the model hands back nothing expanded."""
    seen, given = subject.seen, engine.outputs
    if plan.labels == "none" or (given.expanded_labels is None and given.expanded_input_ids is None):
        return engine
    without = forward(subject.model, subject.adapter, subject.batch, labels=False)
    return Engine.run(subject.model, subject.adapter, without, subject.batch, seen.view, seen.expected, plan.policy)


def _decide(report: Report, engine: Engine) -> None:
    """The decisions that the engine took on the real outputs; its warnings become notes."""
    if engine.dual is None:
        return
    for kind, decision in (("text", engine.dual.text_decision), ("audio", engine.dual.audio_decision)):
        if decision is not None:
            report.decision[kind] = decision.as_dict()
            report.notes += [f"{kind}: {warning}" for warning in decision.warnings]


def _steps(plan: Plan, subject: Subject, engine: Engine) -> Steps | str | Exception:
    """A few training steps, or why there are none."""

    def judge() -> dict[str, float]:
        out = forward(subject.model, subject.adapter, subject.batch)
        view, expected = subject.seen.view, subject.seen.expected
        return Engine.run(subject.model, subject.adapter, out, subject.batch, view, expected).losses()

    def steps(before: dict[str, float], only: str = "") -> Steps:
        return take_steps(subject, before, judge, everything=plan.random_init, only=only)

    def take() -> Steps | str:
        if engine.dual is None:
            return f"the engine cannot judge it: {engine.problem}"
        judged = plan.policy == "evidence" and plan.labels != "none"  # the engine has seen what the steps start from
        taken = steps(engine.losses() if judged else judge())
        silent = {f.stream.partition("[")[0] for f in subject.seen.findings if f.code == "LA205"}
        # few parameters may serve one stream at the cost of another: each is then looked at alone
        apart = [kind for kind in taken.risen if kind not in silent and len(taken.risen) < len(taken.before)]
        return replace(taken, alone={kind: steps(taken.before, kind).after[kind] for kind in apart})

    return taken_or_why(subject, take)


def _losses(report: Report, engine: Engine, steps: Steps | str | Exception, *, own: bool) -> None:
    """Text and audio loss as the engine computes them; in total what the checked loss says."""
    report.losses = engine.losses()
    if own and engine.dual is not None:
        report.losses["total"] = float(engine.dual.total)
    elif isinstance(steps, Steps) and steps.losses:
        report.losses["total"] = steps.losses[0]
