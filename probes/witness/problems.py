"""What is wrong with a loss as a whole: no scalar, no gradient, or numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignment import Finding
from alignment.findings import finding
from alignment.recovery import Form, Reading
from alignment.wording import tokens_named

from ..errors import UsageError
from ..models.adapter import View
from .capture import Capture
from .head_call import HeadCall

__all__ = ["as_scalar", "not_finite", "told_dropped"]


def as_scalar(value: Any, capture: Capture) -> tuple[Tensor | float, list[Finding]]:
    """The loss as a scalar tensor, or the finding that it is cut off from the logits.

    Raises:
        UsageError: None, or anything that is no scalar.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value, [finding("LA605", "all", f"the loss is the python number {value!r}: no gradient can flow")]
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = "None" if value is None else type(value).__name__
        if isinstance(value, Tensor):
            got = f"a tensor of shape {tuple(value.shape)}"
        dropped = capture.dropped_labels
        why = f"; {told_dropped(dropped)} (LA601)" if dropped else ""
        if value is None and capture.withhold:
            why = "; the labels are withheld from the model (--labels none): compute the loss outside it (--loss)"
        raise UsageError(f"the loss function must return a scalar tensor, it returned {got}{why}")
    if not value.is_floating_point():
        raise UsageError(f"the loss function must return a floating point scalar, it returned {value.dtype}")
    if not value.requires_grad:
        return value, [finding("LA605", "all", "the loss is a constant or was detached: it has no gradient")]
    return value, []


def told_dropped(labels: Sequence[str]) -> str:
    """What a message says of labels that a wrapper dropped."""
    return f"{', '.join(labels)} was given to the outermost model and did not reach the innermost forward"


def not_finite(loss: float, capture: Capture, read: Sequence[Reading], view: View) -> list[Finding]:
    """LA501 of a loss, of logits or of a gradient, the first that is met."""
    if not math.isfinite(loss):
        labelled = any(labels is not None and bool((labels >= 0).any()) for labels in view.labels)
        why = "" if labelled else ": the batch has no labelled token, and a mean over nothing is NaN"
        why = next((told for told in map(_masked_targets, capture.calls, read) if told), why)
        return [finding("LA501", "all", f"the loss is {loss}{why}")]
    for call, reading in zip(capture.calls, read, strict=True):
        if not call.finite:
            return [finding("LA501", call.head.name, f"the logits of the {call.head.name} head are not finite")]
        if call.broken or bool((reading.form == int(Form.NOT_FINITE)).any()):
            return [finding("LA501", call.head.name, f"the gradient at the {call.head.name} head is not finite")]
    return []


def _masked_targets(call: HeadCall, reading: Reading) -> str:
    """Which targets of a head call the head itself masks out, in words; empty where there are none."""
    rows = torch.nonzero(reading.target >= 0).reshape(-1)
    if call.logits is None or not len(rows):
        return ""
    logits = call.laid(call.logits)
    masked = rows[logits[rows, reading.target[rows]] == -torch.inf]
    if not len(masked):
        return ""
    shown = tokens_named(reading.target[masked].unique().tolist())
    return f": the {call.head.name} head masks the targets of {len(masked)} rows with a logit of -inf ({shown})"
