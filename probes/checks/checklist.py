"""The seed's five checks, each a function from what was measured to one line of the checklist."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Supervision, pair
from alignment.rules import failing

from ..models.forward import Outputs, length_problem
from ..records.report import Check
from .budget import loss_budget
from .engine import Engine
from .training import NotTrainedError, Steps
from .witness_checks import concerning, named

__all__ = ["fallback_path", "loss_value", "text_length", "training_step"]

#: How far from ln(vocabulary) the loss of a randomly initialised model may lie.
NEAR_UNIFORM = 0.05


def text_length(engine: Engine, findings: Sequence[Finding]) -> Check:
    """Logits, expanded ids and expanded labels have the same length, and are what our expansion says."""
    title = "Logits and expanded labels have the same length"
    bad = concerning(findings, failing("text-length"), "text")
    if bad:
        return Check("text-length", title, "fail", f"LA101: {bad[0].message}")
    problem = length_problem(engine.outputs, engine.view)
    if problem:
        return Check("text-length", title, "fail", problem)
    if engine.outputs.logits is None:
        return Check("text-length", title, "skip", "the model has no text head")
    shapes = [f"logits {list(engine.outputs.logits.shape)}"]
    if engine.outputs.expanded_labels is not None:
        shapes.append(f"expanded_labels {list(engine.outputs.expanded_labels.shape)}")
    expands = engine.outputs.expanded_input_ids is not None
    like = "equal to the reference expansion" if expands else "one row per input id"
    return Check("text-length", title, "pass", f"{', '.join(shapes)}, {like}")


def loss_value(kind: str, engine: Engine, findings: Sequence[Finding], *, random_init: bool) -> Check:
    """The loss of one modality equals its float64 truth, and is meaningful."""
    check_id, title = f"{kind}-loss", f"The {kind} loss computes, with meaningful values"
    mine = [e for e in engine.expected if e.stream.name.startswith(kind)]
    mine = mine[:1] if kind == "text" else mine  # a forward hands back what its main head gives
    wanted = sum(int((e.trained & ~e.lost).sum()) for e in mine)
    if wanted == 0:
        return Check(check_id, title, "skip", f"the batch has no {kind} target")
    without = concerning(findings, failing("loss"), kind)
    if without:
        return Check(check_id, title, "fail", named(without))
    if engine.dual is None:
        return Check(check_id, title, "fail", engine.problem)
    return _valued(check_id, title, kind, engine, mine, random_init=random_init)


def _valued(
    check_id: str, title: str, kind: str, engine: Engine, mine: Sequence[Supervision], *, random_init: bool
) -> Check:
    assert engine.dual is not None
    ours = getattr(engine.dual, kind)
    decision = getattr(engine.dual, f"{kind}_decision")
    if decision is not None and decision.contradicted:
        return Check(check_id, title, "skip", f"policy {decision.pairing} was asked for against the evidence")
    logits, targets, books = _pairs(kind, engine.outputs, mine)
    budget = loss_budget(ours, logits, targets)
    if books > 1:  # a mean over codebooks: the same as one mean where their counts agree
        parts = [loss_budget(0.0, logits[n::books], targets[n::books]) for n in range(books)]
        parts = [part for part in parts if part.rows]
        mean = sum(part.truth for part in parts) / len(parts)
        reference = sum(part.reference for part in parts) / len(parts)
        budget = type(budget)(float(ours), mean, reference, budget.eps, budget.rows)
    if not budget.kept:
        return Check(check_id, title, "fail", f"{budget}: outside its error budget of {budget.allowed:.1e}")
    uniform = math.log(int((logits[0] > -torch.inf).sum()))  # a head may mask ids that are none
    if random_init and not abs(budget.ours - uniform) <= NEAR_UNIFORM * uniform:
        return Check(
            check_id,
            title,
            "fail",
            f"{budget}; a randomly initialised model must lie near ln V = {uniform:.4f}",
        )
    near = f"; ln V = {uniform:.4f}" if random_init else ""
    return Check(check_id, title, "pass", f"{budget}{near}")


def _pairs(kind: str, outputs: Outputs, mine: Sequence[Supervision]) -> tuple[Tensor, Tensor, int]:
    """Logit rows and their expected targets, codebooks interleaved."""
    targets = torch.stack([e.target.masked_fill(e.lost, IGNORE_INDEX) for e in mine], dim=1).reshape(-1)
    logits = outputs.logits if kind == "text" else outputs.audio_logits
    assert logits is not None
    return logits.reshape(-1, logits.shape[-1]), targets.to(logits.device), len(mine)


def fallback_path(engine: Engine, *, expands: bool) -> Check:
    """Without expanded_labels, the raw labels are expanded here and paired as the labels would have been.

    Args:
        engine: on the outputs of a forward without labels.
        expands: whether the model hands back expanded labels at all.
    """
    title = "The fallback path works without expanded_labels"
    if not expands:
        return Check("fallback-path", title, "skip", "this model hands back no expanded labels")
    text = engine.expected[0]
    wanted = text.target.masked_fill(text.lost, IGNORE_INDEX)
    if not bool((wanted != IGNORE_INDEX).any()):
        return Check("fallback-path", title, "skip", "the batch has no text target")
    if engine.outputs.expanded_labels is not None:
        return Check("fallback-path", title, "fail", "expanded_labels came back although no labels were given")
    if engine.dual is None:
        return Check("fallback-path", title, "fail", engine.problem)
    decision = engine.dual.text_decision
    assert decision is not None
    if decision.path != "fallback":
        return Check("fallback-path", title, "fail", f"the {decision.path} path was taken")
    targets = pair(decision.labels, decision.pairing, engine.view.streams[0]).reshape(-1)
    wrong = int((targets != wanted.to(targets.device)).sum())
    if wrong and not decision.contradicted:
        return Check("fallback-path", title, "fail", f"{wrong} rows pair with another label than on the expanded path")
    proof = "verified" if decision.verified else "unverified"
    value = f"{float(engine.dual.text):.4f} nats"
    detail = f"raw labels expanded here, paired {decision.pairing} ({decision.convention}, {proof}): {value}"
    return Check("fallback-path", title, "pass", detail)


def training_step(steps: Steps | str | Exception, findings: Sequence[Finding]) -> Check:
    """A few optimizer steps lower the streams that the loss trains.

    A string says why none were taken, an exception what ended them.
    """
    title = "Training proceeds with both contributions"
    if isinstance(steps, NotTrainedError):
        return Check("training-step", title, "fail", str(steps))
    if isinstance(steps, Exception):
        return Check("training-step", title, "fail", f"the loss raised {type(steps).__name__} in a step: {steps}")
    if isinstance(steps, str):
        return Check("training-step", title, "skip", steps)
    if not steps.restored:
        return Check("training-step", title, "fail", "weights could not be put back")
    shown = ", ".join(f"{kind} {steps.before[kind]:.4f} -> {steps.after[kind]:.4f}" for kind in steps.before)
    detail = f"{len(steps.losses)} steps on {steps.parameters:,} parameters: {shown}; undone"
    if not all(math.isfinite(value) for value in (*steps.losses, *steps.after.values())):
        return Check("training-step", title, "fail", f"not finite: {detail}")
    silent = {f.stream.partition("[")[0] for f in findings if f.code == "LA205"}
    apart = {kind: after for kind, after in steps.alone.items() if after < steps.before[kind]}
    stuck = [kind for kind in steps.risen if kind not in silent and kind not in apart]
    if stuck:
        return Check("training-step", title, "fail", f"{' and '.join(stuck)} did not fall: {detail}")
    if silent:
        return Check("training-step", title, "fail", f"{' and '.join(sorted(silent))} gets no gradient: {detail}")
    for kind, after in apart.items():
        detail += f"; {kind} alone {steps.before[kind]:.4f} -> {after:.4f}: these parameters serve the rest first"
    return Check("training-step", title, "pass", detail)
