"""Forward: one real forward pass, its shapes, and whether they agree with our own expansion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..host.preserve import preserved
from . import Adapter, Batch, View

__all__ = ["Outputs", "all_finite", "can_be_learnt", "forward", "length_problem", "shapes_of", "spelled_out"]

RECORDED = ("logits", "expanded_labels", "expanded_input_ids", "audio_logits")


@dataclass(frozen=True)
class Outputs:
    """What one forward handed back, by name; ``None`` where it did not (a model without a text head has no logits)."""

    logits: Tensor | None
    expanded_labels: Tensor | None
    expanded_input_ids: Tensor | None
    audio_logits: Tensor | None
    attention_mask: Tensor | None


def forward(model: nn.Module, adapter: Adapter, batch: Batch, *, labels: bool = True) -> Outputs:
    """Run the model on a batch without gradients or dropout, with or without its labels."""
    kwargs = dict(batch) if labels else adapter.without_labels(model, batch)
    with preserved(model), torch.no_grad():
        model.eval()  # what two forwards are compared for is less than dropout does
        out = adapter.outputs(model, kwargs)
    return Outputs(**{name: getattr(out, name, None) for name in Outputs.__dataclass_fields__})


def spelled_out(model: nn.Module, adapter: Adapter, batch: Batch) -> Batch:
    """The batch with the inputs that a model would build from others (labels, source ids) beside them."""
    return {**batch, **adapter.without_labels(model, batch)}


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite: their sum says so, and float64 where finite values overflow float32."""
    return any(bool(torch.isfinite(values.detach().sum(dtype=dtype))) for dtype in (torch.float32, torch.float64))


def can_be_learnt(logits: Tensor) -> bool:
    """Whether softmax is defined on every row of (.., V): no NaN, no +inf; -inf may mask ids, but not all."""
    return bool(logits.detach().amax(-1).isfinite().all())


def shapes_of(outputs: Outputs) -> dict[str, list[int]]:
    """The report's ``shapes``: only what was there."""
    found = {name: getattr(outputs, name) for name in RECORDED}
    return {name: list(tensor.shape) for name, tensor in found.items() if tensor is not None}


def length_problem(outputs: Outputs, view: View) -> str:
    """Why the text logits, expanded ids and expanded labels do not agree; empty if they do.

    Compared with our own reference expansion, element by element.
    """
    text = view.streams[0]
    if outputs.logits is None:
        return ""
    batch, length = outputs.logits.shape[:2]
    if batch * length != len(text):
        return f"logits {list(outputs.logits.shape)} have {batch * length} rows, the reference expansion {len(text)}"
    for name, mine in (("expanded_input_ids", text.ids), ("expanded_labels", view.labels[0])):
        theirs = getattr(outputs, name)
        if theirs is None or mine is None:
            continue
        if theirs.shape[1] != length:
            return f"logits have {length} positions, {name} {theirs.shape[1]}"
        differ = theirs.reshape(-1) != mine
        if bool(differ.any()):
            row = int(torch.nonzero(differ)[0])
            return (
                f"{name} differ from the reference expansion at {int(differ.sum())} positions, first at sample "
                f"{row // length} row {row % length}: {int(theirs.reshape(-1)[row])} vs {int(mine[row])}"
            )
    return ""
