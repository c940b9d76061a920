"""One optimizer step of a model with adapters: it moves every adapter, and nothing else (LA602)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..host.preserve import copy_of, preserved
from ..models.forward import forward
from ..models.modules import output_embeddings, peft_model, pretrained_models
from ..models.token_ids import text_config
from ..replay.perturbation import SAME_ORDER, Rounding, row_changes, stream_logits
from ..witness.subject import Subject
from .training import LEARNING_RATE, MasterAdam, NotTrainedError, borrowed_weights

__all__ = ["AdapterStep", "adapters_trained", "frozen_adapters"]


@dataclass(frozen=True)
class AdapterStep:
    """What one optimizer step showed: how many adapters there are, LA602, and in words what moved if none is."""

    adapters: int
    findings: list[Finding]
    told: str


def adapters_trained(subject: Subject, rounding: Rounding) -> AdapterStep:
    """Take one optimizer step on what is trainable, and undo it.

    An adapter that does not move is at fault only where a trained row depends on the module that it adapts: those of
    the audio layers cannot move on a batch of text.
    """
    model = subject.model
    named, groups = dict(model.named_parameters()), _adapters(model)
    moved = _moved(subject)
    still = [owner for owner, names in groups.items() if not moved.intersection(names)]
    inside = {name for names in groups.values() for name in names}
    foreign = [name for name in named if name in moved - inside]
    frozen = [owner for owner in still if not any(named[name].requires_grad for name in groups[owner])]
    findings = _left_behind(model)
    first = frozen[0] if frozen else _first_needed(subject, still, rounding)
    if first:
        why = "is frozen" if frozen else "receives no gradient"
        message = f"{len(still)} of {len(groups)} adapters do not move in a step, first {first}: it {why}"
        findings.append(finding("LA602", "all", message, count=len(still), basis="one optimizer step"))
    if foreign:
        message = f"{len(foreign)} weights outside the adapters move in a step, first {foreign[0]}: it is not frozen"
        findings.append(finding("LA602", "all", message, count=len(foreign), basis="one optimizer step"))
    told = "one step moves them all and nothing else"
    if still:
        told = (
            f"one step moves {len(groups) - len(still)} and nothing else; no target of this batch depends on the other "
            f"{len(still)}, first {still[0]}: not judged"
        )
    return AdapterStep(len(groups), findings, told)


def _first_needed(subject: Subject, owners: list[str], rounding: Rounding) -> str:
    """The first of some modules on which a trained row depends; empty if none does.

    Noise on their outputs tells it: unlike a gradient, it is stopped by no detach, which is what is looked for.
    """
    if not owners:
        return ""
    model, seen = subject.model, subject.seen
    streams = seen.view.streams
    masks = [seen.trained(number) for number in range(len(streams))]

    def rows() -> list[Tensor]:
        logits = stream_logits(forward(model, subject.adapter, subject.batch), len(streams))
        return [one[mask.to(one.device)] for one, mask in zip(logits, masks, strict=True)]

    with preserved(model):
        model.eval()
        base = rows()

        def needed(some: list[str]) -> bool:
            with _noise(model, some):
                changes = row_changes(base, rows())
            allowed = (rounding.allowed(stream.name, SAME_ORDER) for stream in streams)
            return any(bool((~(change <= limit)).any()) for change, limit in zip(changes, allowed, strict=True))

        if not needed(owners):
            return ""
        while len(owners) > 1:
            half = owners[: len(owners) // 2]
            owners = half if needed(half) else owners[len(half) :]
    return owners[0]


@contextmanager
def _noise(model: nn.Module, owners: list[str]) -> Iterator[None]:
    """Add noise of its own to the output of every one of these modules."""

    def noisy(_module: nn.Module, _args: Any, output: Any) -> Any:
        return output + torch.randn_like(output) if isinstance(output, Tensor) else None

    with ExitStack() as hooks:
        for owner in owners:
            hooks.enter_context(model.get_submodule(owner).register_forward_hook(noisy))
        yield


def frozen_adapters(model: nn.Module) -> list[Finding]:
    """LA602 for active adapters that no optimizer can train, and for a tied weight that one of them leaves behind.

    Told without running anything; nothing of a model without adapters.
    """
    if peft_model(model) is None:
        return []
    named, groups = dict(model.named_parameters()), _adapters(model)
    still = [owner for owner, names in groups.items() if not any(named[name].requires_grad for name in names)]
    if not still:
        return _left_behind(model)
    message = (
        f"{len(still)} of {len(groups)} active adapters are frozen, first {still[0]} (PeftModel.from_pretrained "
        "freezes them unless is_trainable=True)"
    )
    return [finding("LA602", "all", message, count=len(still), basis="requires_grad")]


def _left_behind(model: nn.Module) -> list[Finding]:
    """LA602 for a weight that the configuration ties to one that is trained, and that is another one and frozen."""
    for owner in pretrained_models(model):
        if not getattr(text_config(owner), "tie_word_embeddings", False) or output_embeddings(owner) is None:
            continue
        pair = {"input embeddings": owner.get_input_embeddings(), "output embeddings": output_embeddings(owner)}
        weights = {name: weight for name, one in pair.items() if (weight := _active_weight(one)) is not None}
        trained = [name for name, weight in weights.items() if weight.requires_grad]
        if len(weights) == 2 and len(trained) == 1 and len({id(one) for one in weights.values()}) == 2:
            (still,) = weights.keys() - set(trained)
            message = (
                f"{type(owner).__name__} ties its {trained[0]}, which are trained, to its {still}, which are frozen"
            )
            fix = "Train both as one: LoraConfig(ensure_weight_tying=True), or adapt neither with modules_to_save."
            return [finding("LA602", "all", message, count=1, fix=fix, basis="requires_grad")]
    return []


def _active_weight(module: Any) -> Tensor | None:
    """The weight that a module uses; of a module that PEFT keeps a copy of, the copy's."""
    copies = getattr(module, "modules_to_save", None)
    for name in getattr(module, "active_adapters", ()) if isinstance(copies, nn.ModuleDict) else ():
        if name in copies:
            module = copies[name]
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _adapters(model: nn.Module) -> dict[str, list[str]]:
    """Per adapted module, the names of its active adapters' parameters."""
    outer = peft_model(model)
    prefix = getattr(outer.base_model, "prefix", "lora_")
    active = outer.active_adapters if hasattr(outer, "active_adapters") else [outer.active_adapter]
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        for mark in (f".{prefix}", ".modules_to_save."):
            owner, found, rest = name.partition(mark)
            if found and any(adapter in rest.split(".") for adapter in active):
                groups.setdefault(owner, []).append(name)
                break
    return groups


def _moved(subject: Subject) -> set[str]:
    """Names of the parameters that one step of the model's own trainable parameters moves."""
    model = subject.model
    trainable = [param for param in model.parameters() if param.requires_grad]
    if not trainable:
        return set()
    before = {name: _size(param) for name, param in model.named_parameters()}
    with borrowed_weights(model, subject.adapter, trainable, subject.withhold):
        with suppress(NotTrainedError):
            MasterAdam(trainable, LEARNING_RATE).step(subject.loss_fn(model, copy_of(subject.batch)))
        return {name for name, param in model.named_parameters() if _size(param) != before[name]}


def _size(param: Tensor) -> float:
    return float(torch.linalg.vector_norm(param.detach(), dtype=torch.float64))
