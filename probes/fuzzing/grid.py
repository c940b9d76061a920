"""The probe grid: real forward passes over batch sizes, text lengths and audios, recorded case by case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from torch import nn

from alignment import IGNORE_INDEX, AlignmentError, expect, pair

from ..batches.barcoded import BOS, CODEBOOKS, Sample
from ..batches.barcoded_v2 import collate_for
from ..batches.batch_source import to_device
from ..checks.engine import quiet_engine
from ..errors import UsageError
from ..host.environment import environment_of
from ..models import Adapter, adapter_for, is_higgs
from ..models.forward import forward, length_problem, shapes_of
from ..models.higgs import SPECIAL_IDS
from ..models.loading import Loaded
from ..records.provenance import provenance
from ..records.record import Record
from ..report.progress import counting

__all__ = ["QUICK", "Case", "case_samples", "default_grid", "grid_record"]

#: A quick grid is every fourth case.
QUICK = 4
#: Frame counts of a case's audios, in turn: one frame, none beyond it, and longer ones.
FRAMES = (1, 5, 12, 3)


@dataclass(frozen=True)
class Case:
    """One cell of the grid: samples, text tokens per turn, reference and target audios, labels or not."""

    batch_size: int
    text: int
    references: int
    targets: int
    labels: bool

    @property
    def name(self) -> str:
        """As in ``b2-t7-r1-a3-labels``."""
        return (
            f"b{self.batch_size}-t{self.text}-r{self.references}-a{self.targets}"
            f"-{'labels' if self.labels else 'nolabels'}"
        )


def default_grid() -> Iterator[Case]:
    """Batch 1..3, two text lengths, 0..3 reference and 0..3 target audios, with and without labels."""
    for batch_size in (1, 2, 3):
        for text in (1, 9):
            for references in range(4):
                for targets in range(4):
                    for labels in (True, False):
                        yield Case(batch_size, text, references, targets, labels)


def case_samples(case: Case, *, seed: int = 0) -> list[Sample]:
    """The samples of one case, of unequal length, audios of different frame counts."""
    generator = torch.Generator().manual_seed(seed)
    words = iter((torch.randperm(1000, generator=generator) + 10).tolist())
    samples = []
    for index in range(case.batch_size):
        sample = Sample()
        sample.add(SPECIAL_IDS["<|begin_of_text|>"], *(next(words) for _ in range(case.text + index)))
        for number in range(case.references):
            sample.add_reference(_codes(FRAMES[(number + index) % len(FRAMES)], generator))
        sample.add(SPECIAL_IDS["<|eot_id|>"])
        for number in range(case.targets):
            sample.add(next(words), label=True)
            sample.add_target(_codes(FRAMES[(number + 2 * index + 1) % len(FRAMES)], generator), trained=True)
        sample.add(*(next(words) for _ in range(case.text)), SPECIAL_IDS["<|eot_id|>"], label=True)
        samples.append(sample)
    return samples


def _codes(frames: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(BOS, (CODEBOOKS, frames), generator=generator)


def grid_record(loaded: Loaded, *, seed: int, quick: bool, console: Console, command: str) -> tuple[Record, list[str]]:
    """Run the grid on a Higgs model.

    Returns:
        The record, and a line for every case that is not as it must be.

    Raises:
        UsageError: the model is none of the Higgs models.
    """
    adapter = adapter_for(loaded.model)
    if not is_higgs(adapter):
        raise UsageError("probe runs its grid on the Higgs models; check other models with preflight")
    cases = list(default_grid())[:: QUICK if quick else 1]
    recorded, problems = {}, []
    with counting(console, "probing", len(cases)) as advance:
        for done, case in enumerate(cases, start=1):
            recorded[case.name], problem = _probe(case, loaded.model, adapter, seed)
            if problem:
                problems.append(f"{case.name}: {problem}")
            advance(done)
    env = environment_of(loaded.model, loaded.name, seed)
    return Record("probe", provenance(adapter.inner(loaded.model), env, command), recorded), problems


def _probe(case: Case, model: nn.Module, adapter: Adapter, seed: int) -> tuple[dict[str, Any], str]:
    """Run one case: its record, and what is wrong with it (empty if nothing is)."""
    batch = collate_for(adapter, model, case_samples(case, seed=seed))
    batch = to_device(batch, next(model.parameters()).device)
    view = adapter.view(model, batch)
    outputs = forward(model, adapter, batch, labels=case.labels)
    entry: dict[str, Any] = {"case": asdict(case), "shapes": shapes_of(outputs)}
    problem = length_problem(outputs, view)
    try:
        with quiet_engine():
            dual = adapter.dual(model, outputs, batch, "evidence")
    except AlignmentError as error:
        return {**entry, "error": f"{error.code}: {error}"}, problem or str(error)
    for kind, decision in (("text", dual.text_decision), ("audio", dual.audio_decision)):
        entry[kind] = None if decision is None else decision.as_dict()
    wanted = {"text": 0, "audio": 0}
    for stream, labels in zip(view.streams, view.labels, strict=True):
        if labels is not None:
            wanted["audio" if stream.is_audio else "text"] += int(expect(labels, stream).trained.sum())
    entry["valid_tokens"] = wanted
    decision = dual.text_decision
    if decision is not None and not problem:
        paired = pair(decision.labels, decision.pairing, view.streams[0])
        got = int((paired != IGNORE_INDEX).sum())
        if got != wanted["text"]:
            problem = f"{got} text targets are paired, {wanted['text']} expected"
    return entry, problem
