"""Modules of people's own: which checks of the model can be asked of them, and those that ask their loss alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..host.preserve import copy_of, preserved
from ..models import Adapter, Batch, View
from ..models.codebooks import CodebookAdapter
from ..models.declared import DeclaredAdapter
from ..models.forward import forward
from ..models.modules import is_pretrained, unwrapped
from ..records.report import Check
from ..witness.subject import Subject
from .checklist import training_step
from .training import Steps, take_steps, taken_or_why

__all__ = ["checks_of_loss", "why_no_outputs"]

#: Models of at most so many parameters are trained whole for a few steps, and undone.
SMALL = 50_000_000


def why_no_outputs(model: nn.Module, adapter: Adapter, batch: Batch, view: View) -> str:
    """Why the logits of a forward of the model's own cannot be asked for, or compared; empty where they can."""
    if isinstance(adapter, DeclaredAdapter):
        return "streams are declared: what the model hands back of its own is not"
    if isinstance(adapter, CodebookAdapter):
        return "what a model of several codebooks hands back is not laid out as its labels are"
    if view.masked:
        return "the objective is masked: a row is trained on what stands in its own place, and paired with no label"
    inner = adapter.inner(model)
    if is_pretrained(inner) and is_pretrained(unwrapped(model)):
        return ""
    name = type(unwrapped(model)).__name__
    try:
        given = forward(model, adapter, batch)
    except Exception as error:  # noqa: BLE001 - a module of the user's own may raise anything
        return f"{name} cannot be called with the batch alone: {type(error).__name__}: {error}"
    if given.logits is None:
        return f"{name} hands back no logits"
    rows, ids = given.logits.shape[:-1].numel(), len(view.streams[0])
    return "" if rows == ids else f"{name} hands back {rows} rows of logits for {ids} ids"


def checks_of_loss(why: str, subject: Subject, kinds: Sequence[str]) -> list[Check]:
    """The seed's five checks where only the loss can be asked: a few steps must lower it, the rest is skipped."""
    names = [("text-length", "Logits and expanded labels have the same length")]
    names += [(f"{kind}-loss", f"The {kind} loss computes, with meaningful values") for kind in kinds]
    names += [("fallback-path", "The fallback path works without expanded_labels")]
    checks = [Check(name, title, "skip", why) for name, title in names]
    lengths = [f for f in subject.seen.findings if f.code == "LA101"]
    if lengths:
        checks[0] = Check(*names[0], "fail", f"LA101: {lengths[0].message}")
    return [*checks, training_step(_steps(subject), subject.seen.findings)]


def _steps(subject: Subject) -> Steps | str | Exception:
    model = subject.model

    def judge() -> dict[str, float]:
        with preserved(model), torch.no_grad():
            model.eval()
            return {"loss": float(subject.loss_fn(model, copy_of(subject.batch)))}

    whole = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    return taken_or_why(subject, lambda: take_steps(subject, judge(), judge, everything=whole))
