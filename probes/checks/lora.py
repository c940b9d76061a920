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
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from alignment import Finding

from ..errors import CannotRunError, UsageError, first_line
from ..host.preserve import preserved, same_random_state
from ..models import Adapter, Batch
from ..models.forward import Outputs, forward
from ..models.modules import peft_model
from ..records.report import Check
from ..replay.perturbation import SAME_ORDER, Rounding, row_changes
from ..witness.subject import Subject
from ..witness.witness import Witness, witness
from .adapter_step import adapters_trained

__all__ = ["Lora", "broken_task_types", "lora_check", "no_layers", "wrapped"]

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
    with same_random_state(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # peft sets it right itself
        warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings=True`")  # matters to who merges
        # peft 0.21 asks a model of transformers 5 for the old name of a property
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        training = model.training
        try:
            return peft.get_peft_model(model, config).train(training)
        except ValueError as error:
            named = ", ".join(target) if isinstance(target, list) else target
            told = "; ".join(no_layers(model, lora)) or _ends_of(error)
            raise UsageError(f"--lora-target {named}: {told}") from error


def no_layers(model: nn.Module, lora: Lora) -> list[str]:
    """The targets that no layer of the model matches, each with the nearest name: PEFT passes over them in silence."""
    paths = [path for path, _ in model.named_modules() if path]
    names = {path.rpartition(".")[2] for path in paths if not path.rpartition(".")[2].isdigit()}
    told = []
    for target in lora.target:
        if lora.target != ("all-linear",) and not any(path == target or path.endswith(f".{target}") for path in paths):
            near = get_close_matches(target.rpartition(".")[2], sorted(names), n=1)
            told.append(f"no layer is called {target}{f', the nearest is {near[0]}' if near else ''}")
    return told


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
            broken[str(task.value)] = f"{type(error).__name__}: {first_line(error)}"
        finally:
            outer.unload()
            for param, flag in flags:
                param.requires_grad_(flag)
    return broken


def lora_check(subject: Subject, rounding: Rounding, broken: Mapping[str, str]) -> tuple[Check, list[Finding]]:
    """Compare the wrapped model with the bare one, then train one step."""
    outer = peft_model(subject.model)
    dropped = [f for f in subject.seen.findings if f.code == "LA601"]
    if dropped:
        return Check("peft", TITLE, "fail", f"LA601: {dropped[0].message}"), []
    if subject.trains_nothing:
        return Check("peft", TITLE, "skip", f"the loss does not train: {subject.trains_nothing}"), []
    fresh = is_fresh(outer)
    problem = _difference(subject, rounding, fresh=fresh)
    if problem:
        return Check("peft", TITLE, "fail", problem), []
    step = adapters_trained(subject, rounding)
    if step.findings:
        return Check("peft", TITLE, "fail", f"LA602 {step.findings[0].name}: {step.findings[0].message}"), step.findings
    same = "outputs, labels and supervision as without" if fresh else f"{_past(outer)}: not compared with none"
    detail = f"{step.adapters} adapters: {same}; {step.told}; undone"
    if broken:
        detail += (
            f"; task types {', '.join(broken)} break this model: leave task_type unset, or call base_model(**batch)"
        )
    return Check("peft", TITLE, "pass", detail), []


def _past(outer: Any) -> str:
    """Why adapters may change outputs."""
    kinds = {str(getattr(config.peft_type, "value", config.peft_type)) for config in outer.peft_config.values()}
    return "trained before" if kinds == {"LORA"} else f"{', '.join(sorted(kinds))}, which need not begin as nothing"


def is_fresh(outer: Any) -> bool:
    """Whether no adapter has been trained: the matrix of each that PEFT begins at zero still is, A in an embedding."""
    zero = [param for name, param in outer.named_parameters() if "lora_B" in name or "lora_embedding_A" in name]
    return bool(zero) and not any(bool(param.detach().any()) for param in zero)


def _difference(subject: Subject, rounding: Rounding, *, fresh: bool) -> str:
    """What the wrapper, or a fresh adapter, changes; empty if nothing."""
    outer, adapter, batch = peft_model(subject.model), subject.adapter, subject.batch
    with _evaluating(outer):
        through, past = forward(outer, adapter, batch), forward(outer.base_model, adapter, batch)
        told = _outputs_differ(through, past, rounding, "through the wrapper", "past it (base_model)")
        if told or not fresh:
            return told
        del past
        with _bare(outer) as inner:
            bare = forward(inner, adapter, batch)
        told = _outputs_differ(through, bare, rounding, "with a fresh adapter", "without")
    if told:
        return told
    try:
        with _bare(outer) as inner:
            without = witness(inner, adapter, batch, subject.loss_fn, subject.options)
    except UsageError:  # the loss reaches through the wrapper (``model.base_model.model``)
        with _bare(outer):
            without = witness(outer, adapter, batch, subject.loss_fn, subject.options)
    return _supervision_differs(subject.seen, without)


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


def _outputs_differ(one: Outputs, other: Outputs, rounding: Rounding, this: str, that: str) -> str:
    for name in COMPARED:
        mine, theirs = getattr(one, name), getattr(other, name)
        if (mine is None) != (theirs is None):
            return f"{name} {this} {'missing' if mine is None else 'present'}, {that} not"
        if mine is None:
            continue
        if mine.shape != theirs.shape:
            return f"{name} {list(mine.shape)} {this}, {list(theirs.shape)} {that}"
        allowed = rounding.allowed(name.partition("_")[0], SAME_ORDER) if mine.is_floating_point() else 0
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


def _ends_of(error: Exception) -> str:
    """The first and the last line of a message: PEFT prints a whole module between them."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))
