"""A watched forward, run again with other inputs or weights.

Whether its rows see what they are trained on, and whether they depend on what is never trained. The training is not
touched: it stands still meanwhile, and weights, gradients, buffers, random state and the attributes of every module
are afterwards as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError, Supervision

from ..checks.causality import add_told, told_nothing
from ..checks.cut_off import cut_off
from ..errors import UsageError
from ..models.adapter import Batch
from ..records.choice import Keep
from ..records.report import Report
from ..replay.calls import Scene
from ..replay.replay import replay
from ..replay.told import Causality
from .forwards import Forward
from .joined import Part
from .standing_still import attributes_kept, device_of

__all__ = ["add_causality_of", "add_cut_off"]


def add_causality_of(report: Report, forwards: Sequence[Forward], parts: Sequence[Part], keep: Keep | None) -> None:
    """Judge the first forward of the watched steps, and add to the report what it shows."""
    if any(one.code == "LA804" and not one.count for one in report.findings):  # with rows, others were judged
        report.checks.append(told_nothing())
        return
    pair = _first(forwards, parts)
    if pair is None or not any(bool((one.trained | one.soft).any()) for one in pair[1].actual):
        report.checks.append(told_nothing())
        return
    try:
        with _again(*pair) as (scene, batch, told):
            judged = replay(scene, batch, told)
    except (InputError, UsageError) as error:
        judged = Causality(problem=str(error))
    add_told(report, judged, keep)


def add_cut_off(
    report: Report,
    forwards: Sequence[Forward],
    parts: Sequence[Part],
    ungraded: Mapping[str, bool],
    keep: Keep | None,
) -> None:
    """LA602 where trained rows of the first watched forward depend on parameters that no step had a gradient for.

    ``ungraded`` says of each parameter that an optimizer holds whether it was one.
    """
    silent = [name for name, empty in ungraded.items() if empty]
    pair = _first(forwards, parts)
    if not silent or pair is None:
        return
    with suppress(InputError, UsageError), _again(*pair) as (scene, batch, told):
        findings, notes = cut_off(scene, batch, told, silent, len(ungraded))
        report.add(findings, keep)
        report.notes += notes


def _first(forwards: Sequence[Forward], parts: Sequence[Part]) -> tuple[Forward, Part] | None:
    """The first forward that was trained, and what was read of it."""
    return next(((forward, part) for forward, part in zip(forwards, parts, strict=True) if forward.graded), None)


@contextmanager
def _again(forward: Forward, part: Part) -> Iterator[tuple[Scene, Batch, list[Supervision]]]:
    """The scene of a watched forward, the batch that it was given, and what it trains.

    Raises:
        InputError: it cannot be run again.
    """
    adapter = forward.adapter
    module, batch = forward.made_again()
    with attributes_kept(forward.model):
        told = _on(part.actual, device_of(module))
        loss = partial(_called, module, batch.get("inputs_embeds"), batch.get("input_ids"))
        view = adapter.view(forward.model, batch)
        if any(len(one.stream) != len(mine) for one, mine in zip(told, view.streams, strict=True)):
            raise InputError("the forward makes rows of its own, which no id stands for")
        yield Scene(forward.model, adapter, view, loss), batch, told


def _called(module: Any, embeddings: Tensor | None, ids: Any, _: nn.Module, given: Batch) -> Any:
    """The watched call with other ids; where it was given embeddings, those of the ids that are others."""
    if embeddings is None:
        return module(**given)
    other = given["input_ids"]
    table = module.get_input_embeddings()
    fresh = torch.where((other == ids)[..., None], embeddings, table(other.clamp(min=0)).to(embeddings))
    return module(**{**given, "input_ids": None, "inputs_embeds": fresh})


def _on(told: Sequence[Supervision], device: torch.device) -> list[Supervision]:
    moved = []
    for one in told:
        named = {field.name: getattr(one, field.name) for field in fields(one)}
        there = {name: value.to(device) for name, value in named.items() if isinstance(value, Tensor)}
        moved.append(replace(one, stream=one.stream.to(device), **there))
    return moved
