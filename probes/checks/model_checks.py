"""The checks of the model itself: what it lets a row see, how it decodes, and what a LoRA around it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from alignment import Finding

from ..models.forward import Outputs, all_finite, can_be_learnt
from ..models.modules import peft_model
from ..records.choice import Keep
from ..records.report import Check, Report
from ..replay.perturbation import Rounding
from ..witness.subject import Subject
from .causality import REPLAYED_NOT, Replays, causality, causality_check, causality_findings, settle_soft
from .decode import TITLE as DECODE
from .decode import decode_check
from .padding import padding_matters
from .witness_checks import named

__all__ = ["model_checks"]


def model_checks(
    report: Report,
    outputs: Outputs | None,
    subject: Subject,
    task_types: Mapping[str, str],
    keep: Keep | None,
    progress: Callable[[str], None],
    replays: Replays = True,
) -> None:
    """Add ``causality``, ``decode`` and, where the model is wrapped, ``peft`` to a report."""

    def join(check: Check, found: list[Finding]) -> None:
        kept = [f for f in found if keep is None or keep(f)]
        ignored = [f for f in found if f not in kept and f.is_error]
        if check.status == "fail" and ignored and not any(f.is_error for f in kept):
            check = replace(check, status="skip", detail=f"ignored: {named(ignored)}")
        report.checks.append(check)
        report.add(found, keep)

    model, adapter, batch, loss_fn = subject.model, subject.adapter, subject.batch, subject.loss_fn
    progress("cutting the inputs")
    seed = int(report.environment.get("seed", 0))
    rounding = None if outputs is None else Rounding(model, adapter, batch, outputs)
    told = causality(subject, replays=replays, seed=seed)
    ahead = told is not None and told.ahead
    padding, found = "padding not varied", []
    if outputs is not None and rounding is not None and _readable(outputs):
        padding, found = padding_matters(model, adapter, batch, subject.seen.view, rounding, loss_fn)
    if ahead and found:
        padding, found = "padding not compared: rows read later inputs", []
    leaks = [] if told is None else causality_findings(told, report.findings)
    if told is not None:
        settle_soft(report, [one for one in leaks if keep is None or keep(one)])
        report.causality = told.as_dict()
        report.notes += told.notes
    check = causality_check(told, leaks, padding)
    join(check if replays else replace(check, detail=REPLAYED_NOT), [*leaks, *found])
    if outputs is None:  # nothing but its loss can be asked
        why = "what the model hands back of its own is not known"
        report.checks.append(Check("decode", DECODE, "skip", why))
        return
    progress("decoding step by step")
    check, found = decode_check(model, adapter, batch, rounding, loss_fn)
    if ahead and found:  # a visible prefix, or LA401: what is decoded token by token cannot have read them
        why = "rows of the forward that is trained read later inputs, which step by step are not there yet"
        check, found = Check("decode", DECODE, "skip", why), []
    join(check, found)
    if peft_model(model) is not None:
        from .lora import lora_check  # most models have none

        progress("comparing with the bare model")
        join(*lora_check(subject, rounding, task_types))


def _readable(outputs: Outputs) -> bool:
    """Whether rows of the outputs can be compared: finite, or masked by the head on purpose."""
    given = (rows for rows in (outputs.logits, outputs.audio_logits) if rows is not None)
    return all(all_finite(rows) or can_be_learnt(rows) for rows in given)
