"""What else a loss trains: modules and parameters that it reaches, and that feed none of the logits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from ..witness.backward import gradients_at
from .candidates import Candidate, Run, nodes_above

__all__ = ["also_trained", "outermost"]


def also_trained(inner: nn.Module, run: Run, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Modules and parameters that the loss reaches, and that feed none of the logits; outermost ones for their parts.

    Nothing where there are no logits: a loss that trains none reaches everything.
    """
    logits = [one.made.node for one in candidates if not one.inside]
    if not logits:
        return ()
    feeding = {*logits, *nodes_above(logits)}
    reached = nodes_above([run.loss.grad_fn], feeding.__contains__) - feeding
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    variables = {name: node.variable for node in reached if (name := names.get(id(getattr(node, "variable", None))))}
    grads = gradients_at(list(variables.values()), run.loss, inner)
    past = {name for name, grad in zip(variables, grads, strict=True) if grad is not None and bool((grad != 0).any())}
    return outermost(past, names.values())


def outermost(past: set[str], every: Collection[str]) -> tuple[str, ...]:
    """Parameters by the outermost modules that hold no others than these, of ``every`` one of the model's."""
    return tuple(sorted({_outermost(name, past, every) for name in past}))


def _outermost(name: str, among: set[str], every: Collection[str]) -> str:
    """The outermost module that holds a parameter and none that is not ``among`` them; the parameter, if none."""
    parts, best = name.split("."), name
    for count in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:count])
        if not all(one in among for one in every if one.startswith(f"{path}.")):
            break
        best = path
    return best
