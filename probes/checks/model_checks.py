"""The checks of the model itself: what it lets a row see, how it decodes, and what a LoRA around it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from alignment import Finding

from ..models import Adapter, Batch
from ..models.forward import Outputs
from ..models.modules import peft_model
from ..records.report import Check, Report
from ..witness.witness import LossFunction, Options, Witness
from .causality import causality, causality_check
from .check import Keep
from .decode import decode_check
from .lora import lora_check
from .padding import padding_matters
from .witness_checks import named

__all__ = ["model_checks"]


def model_checks(
    report: Report,
    outputs: Outputs,
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    loss_fn: LossFunction,
    seen: Witness,
    options: Options,
    task_types: Mapping[str, str],
    keep: Keep | None,
    progress: Callable[[str], None],
) -> None:
    """Add ``causality``, ``decode`` and, where the model is wrapped, ``peft`` to a report."""

    def join(check: Check, found: list[Finding]) -> None:
        kept = [f for f in found if keep is None or keep(f)]
        ignored = [f for f in found if f not in kept and f.is_error]
        if check.status == "fail" and ignored and not any(f.is_error for f in kept):
            check = replace(check, status="skip", detail=f"ignored: {named(ignored)}")
        report.checks.append(check)
        report.add(found, keep)

    progress("cutting the inputs")
    told = causality(model, adapter, batch, seen, int(report.environment.get("seed", 0)), outputs)
    padding, found = "", []
    if told.movement is not None:
        padding, found = padding_matters(model, adapter, batch, seen.view, told.movement)
    report.causality = told.as_dict()
    report.notes += told.notes
    join(causality_check(told, padding), [*told.findings, *found])
    progress("decoding step by step")
    join(*decode_check(model, adapter, batch, told.movement))
    if peft_model(model) is not None:
        progress("comparing with the bare model")
        join(*lora_check(model, adapter, batch, loss_fn, seen, options, told.movement, task_types))
