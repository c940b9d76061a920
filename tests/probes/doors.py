"""The same model, batch and loss through every door: check_loss, preflight, the fixture, the callback and run."""

from __future__ import annotations

import copy
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from live_runs import loop, watched
from torch import nn
from transformers import Trainer, TrainingArguments

from alignment import InputError
from loss_alignment_pytest import LossAlignment
from probes import AlignmentCallback, UsageError, check_loss
from probes.checks.preflight import Plan, preflight
from probes.checks.reduction import counted_loss
from probes.models import adapter_for
from probes.witness.witness import Options

__all__ = ["DOORS", "Said", "short"]

Loss = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Said:
    """What one door said: ``CODE modality severity`` of every finding; or why it said nothing.

    ``raised``: the loss did, and ended the script.
    """

    codes: frozenset[str] = frozenset()
    verdict: str = ""
    refused: str = ""
    raised: bool = False


def short(found: Any) -> str:
    """Code, modality and severity."""
    return f"{found.code} {found.stream.partition('[')[0]} {found.severity}"


def _said(report: Any) -> Said:
    return Said(frozenset(map(short, report.findings)), report.verdict, report.error)


def _by_check_loss(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
    return _said(check_loss(model, batch, loss, **options))


def _by_fixture(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
    node = types.SimpleNamespace(user_properties=[])
    kept = []

    class Kept(LossAlignment):
        def _report(self, *given: Any) -> Any:
            kept.append(super()._report(*given))
            return kept[0]

    try:
        Kept(node, None).check(model, batch, loss, **options)
    except pytest.fail.Exception as failed:
        if not kept:
            return Said(refused=str(failed).removeprefix("loss-alignment: "))
    return _said(kept[0])


def _by_preflight(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
    adapter = adapter_for(model)
    return _said(preflight(Plan(model, adapter, dict(batch), loss, **options)))


def _by_run(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
    mine, loss = copy.deepcopy(model), _told_of_the_step(model, batch, loss)
    parts = _split(model, batch, options.get("grad_accum", 1))
    try:
        report, _ = watched(lambda: loop(mine, loss, parts, accumulate=len(parts)), steps=1)
    except Exception:  # noqa: BLE001 - the script's own, whatever it is
        return Said(raised=True)
    return _said(report)


def _by_callback(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
    parts, loss = _split(model, batch, options.get("grad_accum", 1)), _told_of_the_step(model, batch, loss)
    kept = {"use_cache": True} if hasattr(TrainingArguments, "use_cache") else {}  # as the other doors call the model

    class Mine(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return loss(model, inputs)

        def _remove_unused_columns(self, dataset, description=None):
            return dataset

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=len(parts),
            max_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=0.0,
            dataloader_drop_last=False,
            remove_unused_columns=False,
            **kept,
        )
        callback = AlignmentCallback("fail", reduction=options.get("reduction"))
        trainer = Mine(
            model=copy.deepcopy(model),
            args=arguments,
            train_dataset=list(range(len(parts))),
            data_collator=lambda rows: dict(parts[rows[0]]),
            callbacks=[callback],
        )
        try:
            trainer.train()
        except Exception as error:  # the report tells
            if callback.report is None:
                raise
            del error
    return _said(callback.report)


def _told_of_the_step(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> Loss:
    """The loss as a training loop calls it, which tells it of the targets of the whole step if it asks."""
    return counted_loss(loss, model, adapter_for(model), dict(batch), Options())


def _split(model: nn.Module, batch: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    if parts == 1:
        return [dict(batch)]
    return [dict(part) for part in adapter_for(model).split(model, dict(batch))]


def through(door: Callable[..., Said]) -> Callable[..., Said]:
    """A door whose refusals are told as it tells them."""

    def go(model: nn.Module, batch: Mapping[str, Any], loss: Loss, options: Mapping[str, Any]) -> Said:
        batch = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        try:
            return door(model, batch, loss, options)
        except (UsageError, InputError) as error:
            return Said(refused=str(error))

    return go


DOORS = {
    "check_loss": through(_by_check_loss),
    "fixture": through(_by_fixture),
    "preflight": through(_by_preflight),
    "callback": through(_by_callback),
    "run": through(_by_run),
}
