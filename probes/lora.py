"""LoRA: wrap a model as a fine-tuning run does, and show that the wrapping changes nothing but what is trained.

A fresh adapter adds exact zero: outputs, expanded labels and supervision must be those of the bare model, through
the wrapper and past it (``peft_model.base_model(**batch)``). One optimizer step must move every adapter, and
nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from .errors import CannotRunError, UsageError
from .forward import Outputs, forward
from .models import Adapter, Batch
from .models.modules import peft_model
from .perturbation import SAME_ORDER, Movement, row_changes
from .preserve import copy_of, cuda_devices, preserved
from .report.model import Check
from .training import LEARNING_RATE, MasterAdam, borrowed_weights
from .witness import LossFunction, Options, Witness, witness

__all__ = ["Lora", "adapters_trained", "broken_task_types", "frozen_adapters", "lora_check", "wrapped"]

TITLE = "LoRA changes nothing but what is trained"
COMPARED = ("logits", "audio_logits", "expanded_labels", "expanded_input_ids")


@dataclass(frozen=True)
class Lora:
    """What ``--lora-r``, ``--lora-alpha``, ``--lora-dropout`` and ``--lora-target`` ask for."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target: tuple[str, ...] = ()


def require_peft() -> Any:
    """The peft package.

    Raises:
        CannotRunError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise CannotRunError(f"the --lora options need peft ({error}): pip install 'loss-alignment[peft]'") from error
    return peft


def wrapped(model: nn.Module, adapter: Adapter, lora: Lora, seed: int, task_type: str | None = None) -> nn.Module:
    """The model in PEFT's LoRA, freshly initialised; ``task_type`` None leaves the call as it is.

    Raises:
        CannotRunError: peft is not installed.
        UsageError: targets that the model does not have.
    """
    peft = require_peft()
    target: Any = list(lora.target) or adapter.lora_targets(model)
    if target == ["all-linear"]:
        target = "all-linear"
    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=target, task_type=task_type
    )
    with torch.random.fork_rng(devices=cuda_devices(model)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # peft sets it right itself
        # peft 0.21 asks a model of transformers 5 for the old name of a property
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        training = model.training
        try:
            return peft.get_peft_model(model, config).train(training)
        except ValueError as error:
            named = ", ".join(target) if isinstance(target, list) else target
            raise UsageError(f"--lora-target {named}: {_first_line(error)}") from error


def broken_task_types(model: nn.Module, adapter: Adapter, batch: Batch) -> dict[str, str]:
    """Per task type of PEFT under which the bare model no longer runs on the batch, why."""
    broken = {}
    generates = hasattr(model, "prepare_inputs_for_generation")
    for task in require_peft().TaskType:
        if not generates and task.value in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):  # PEFT would stop half way through wrapping
            broken[str(task.value)] = "the model has no prepare_inputs_for_generation"
            continue
        flags = [(param, param.requires_grad) for param in model.parameters()]
        outer = wrapped(model, adapter, Lora(r=1), 0, task.value)
        try:
            forward(outer, adapter, batch)
        except Exception as error:  # noqa: BLE001 - whatever the wrapped forward raises, the task type breaks it
            broken[str(task.value)] = f"{type(error).__name__}: {_first_line(error)}"
        finally:
            outer.unload()
            for param, flag in flags:
                param.requires_grad_(flag)
    return broken


def lora_check(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    loss_fn: LossFunction,
    seen: Witness,
    options: Options,
    movement: Movement | None,
    broken: Mapping[str, str],
) -> tuple[Check, list[Finding]]:
    """Compare the wrapped model with the bare one, then train one step."""
    outer = peft_model(model)
    findings = [f for f in seen.findings if f.code == "LA601"]
    if findings:
        return Check("peft", TITLE, "fail", f"LA601: {findings[0].message}"), []
    unusable = [f for f in seen.findings if f.code in ("LA101", "LA206", "LA501", "LA605")]
    if unusable:
        return Check("peft", TITLE, "skip", f"the loss does not train: {unusable[0].code} {unusable[0].name}"), []
    fresh = is_fresh(outer)
    problem = _difference(outer, adapter, batch, loss_fn, seen, options, movement or Movement(0.0), fresh=fresh)
    if problem:
        return Check("peft", TITLE, "fail", problem), []
    count, trained = adapters_trained(model, adapter, batch, loss_fn, options)
    if trained:
        return Check("peft", TITLE, "fail", f"LA602 {trained[0].name}: {trained[0].message}"), trained
    same = "outputs, labels and supervision as without" if fresh else "trained before: not compared with none"
    detail = f"{count} adapters: {same}; one step moves them all and nothing else; undone"
    if broken:
        detail += (
            f"; task types {', '.join(broken)} break this model: leave task_type unset, or call base_model(**batch)"
        )
    return Check("peft", TITLE, "pass", detail), []


def is_fresh(outer: Any) -> bool:
    """Whether no adapter has been trained: the second matrix of each is zero."""
    seconds = [param for name, param in outer.named_parameters() if "lora_B" in name or "lora_embedding_B" in name]
    return bool(seconds) and not any(bool(param.detach().any()) for param in seconds)


def _difference(
    outer: Any,
    adapter: Adapter,
    batch: Batch,
    loss_fn: LossFunction,
    seen: Witness,
    options: Options,
    movement: Movement,
    *,
    fresh: bool,
) -> str:
    """What the wrapper, or a fresh adapter, changes; empty if nothing."""
    with _evaluating(outer):
        through, past = forward(outer, adapter, batch), forward(outer.base_model, adapter, batch)
        told = _outputs_differ(through, past, movement, "through the wrapper", "past it (base_model)")
        if told or not fresh:
            return told
        del past
        with _bare(outer) as inner:
            bare = forward(inner, adapter, batch)
        told = _outputs_differ(through, bare, movement, "with a fresh adapter", "without")
    if told:
        return told
    with _bare(outer) as inner:
        without = witness(inner, adapter, batch, loss_fn, options)
    return _supervision_differs(seen, without)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, which would move the wrapped outputs alone."""
    with preserved(model):
        model.eval()
        yield


@contextmanager
def _bare(outer: Any) -> Iterator[nn.Module]:
    """The model under its wrapper, adapters off; PEFT unfreezes every adapter when it turns them on again."""
    with preserved(outer), outer.disable_adapter():
        yield outer.get_base_model()


def _outputs_differ(one: Outputs, other: Outputs, movement: Movement, this: str, that: str) -> str:
    for name in COMPARED:
        mine, theirs = getattr(one, name), getattr(other, name)
        if (mine is None) != (theirs is None):
            return f"{name} {this} {'missing' if mine is None else 'present'}, {that} not"
        if mine is None:
            continue
        if mine.shape != theirs.shape:
            return f"{name} {list(mine.shape)} {this}, {list(theirs.shape)} {that}"
        allowed = movement.allowed(name.partition("_")[0], SAME_ORDER) if mine.is_floating_point() else 0
        error = max(row_changes([mine], [theirs])[0].tolist(), default=0.0)
        if not error <= allowed:
            return f"{name} {this} differ from those {that} by {error:.1e} (rounding explains {allowed:.1e})"
    return ""


def _supervision_differs(seen: Witness, without: Witness) -> str:
    if len(seen.actual) != len(without.actual):
        return "the loss is read on one of the wrapped and the bare model only"
    for mine, theirs in zip(seen.actual, without.actual, strict=True):
        rows = (mine.target != theirs.target) | (mine.source != theirs.source)
        if bool(rows.any()):
            return f"{int(rows.sum())} rows of {mine.stream.name} are trained otherwise than on the bare model"
    return ""


def adapters_trained(
    model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, options: Options
) -> tuple[int, list[Finding]]:
    """One optimizer step on what is trainable: how many adapters there are, and LA602 for what moved wrongly."""
    named, groups = dict(model.named_parameters()), _adapters(model)
    moved = _moved(model, adapter, batch, loss_fn, adapter.label_keys if options.withhold else ())
    still = [owner for owner, names in groups.items() if not moved.intersection(names)]
    inside = {name for names in groups.values() for name in names}
    foreign = [name for name in named if name in moved - inside]
    findings = []
    if still:
        why = "is frozen" if not any(named[n].requires_grad for n in groups[still[0]]) else "receives no gradient"
        message = f"{len(still)} of {len(groups)} adapters do not move in a step, first {still[0]}: it {why}"
        findings.append(finding("LA602", "all", message, count=len(still), basis="one optimizer step"))
    if foreign:
        message = f"{len(foreign)} weights outside the adapters move in a step, first {foreign[0]}: it is not frozen"
        findings.append(finding("LA602", "all", message, count=len(foreign), basis="one optimizer step"))
    return len(groups), findings


def frozen_adapters(model: nn.Module) -> list[Finding]:
    """LA602 for active adapters that no optimizer can train, told without running anything."""
    named, groups = dict(model.named_parameters()), _adapters(model)
    still = [owner for owner, names in groups.items() if not any(named[name].requires_grad for name in names)]
    if not still:
        return []
    message = (
        f"{len(still)} of {len(groups)} active adapters are frozen, first {still[0]} (PeftModel.from_pretrained "
        "freezes them unless is_trainable=True)"
    )
    return [finding("LA602", "all", message, count=len(still), basis="requires_grad")]


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


def _moved(
    model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, withhold: tuple[str, ...]
) -> set[str]:
    """Names of the parameters that one step of the model's own trainable parameters moves."""
    trainable = [param for param in model.parameters() if param.requires_grad]
    if not trainable:
        return set()
    before = {name: _size(param) for name, param in model.named_parameters()}
    with borrowed_weights(model, adapter, trainable, withhold):
        MasterAdam(trainable, LEARNING_RATE).step(loss_fn(model, copy_of(batch)))
        return {name for name, param in model.named_parameters() if _size(param) != before[name]}


def _size(param: Tensor) -> float:
    return float(torch.linalg.vector_norm(param.detach(), dtype=torch.float64))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
