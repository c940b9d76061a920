"""Decoding: the logits that generation sees, step by step with the cache, are those that training forced."""

from __future__ import annotations

import torch
from torch import nn

from alignment import Finding
from alignment.findings import finding

from .forward import all_finite, forward
from .models import Adapter, Batch
from .models.adapter import CannotDecodeError
from .perturbation import OTHER_ORDER, Movement, perturbed
from .preserve import preserved
from .report.model import Check

__all__ = ["decode_check"]

TITLE = "Decoding step by step gives the logits of training"
#: Positions of one sample that are decoded one by one; those before them fill the cache.
STEPS = 96


def decode_check(
    model: nn.Module, adapter: Adapter, batch: Batch, movement: Movement | None = None
) -> tuple[Check, list[Finding]]:
    """Decode the end of the first sample, and compare each step with the teacher-forced forward.

    ``movement`` is what rounding does to the logits of the batch, where it has been measured.
    """
    sample = adapter.split(model, batch)[0]
    worst: dict[str, float] = {}
    wrong: dict[str, list[tuple[int, float]]] = {"text": [], "audio": []}
    steps = dict.fromkeys(wrong, 0)
    with preserved(model), torch.no_grad():
        model.eval()
        try:
            forced = forward(model, adapter, sample)
        except Exception as error:  # noqa: BLE001 - the batch ran: a model that cannot run one of its samples is named
            return Check("decode", TITLE, "skip", f"the first sample alone raises {type(error).__name__}: {error}"), []
        given = forced.audio_logits if forced.logits is None else forced.logits
        if given is None or not all_finite(given):
            return Check("decode", TITLE, "fail", "the logits are not finite"), []
        movement = movement or perturbed(model, adapter, sample, forced)
        try:
            for step in adapter.decode(model, sample, STEPS):
                teacher = forced.logits[0, step.row] if step.kind == "text" else forced.audio_logits[step.row]
                error = float((step.logits.float() - teacher.float()).abs().max())
                steps[step.kind] += 1
                worst[step.kind] = max(worst.get(step.kind, 0.0), error)
                if not error <= movement.allowed(step.kind, OTHER_ORDER):
                    wrong[step.kind].append((step.row, error))
        except CannotDecodeError as error:
            return Check("decode", TITLE, "skip", str(error)), []
    findings = [
        finding(
            "LA604",
            kind,
            f"{len(rows)} of {steps[kind]} decoded {kind} rows differ from teacher forcing, by up to "
            f"{max(error for _, error in rows):.1e} (rounding explains {movement.allowed(kind, OTHER_ORDER):.1e}); "
            f"first at sample 0 row {rows[0][0]}",
            count=len(rows),
            basis="decoding against teacher forcing",
        )
        for kind, rows in wrong.items()
        if rows
    ]
    if findings:
        codes = ", ".join(f"{f.code} {f.name} on {f.stream} ({f.count} rows)" for f in findings)
        return Check("decode", TITLE, "fail", codes), findings
    if not sum(steps.values()):
        return Check("decode", TITLE, "skip", "the sample has no position to decode"), []
    shown = ", ".join(f"{steps[kind]} {kind} rows within {error:.1e}" for kind, error in worst.items())
    return Check("decode", TITLE, "pass", f"{shown} of teacher forcing"), []
