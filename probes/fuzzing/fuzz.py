"""Fuzz: property tests of a loss on a model, within the loss's contract, one shrunk example per finding.

hypothesis draws the cases and shrinks what fails. A loss is only asked for what it promises: the
declared label convention, at least one target per stream unless allowed otherwise, and equal weights under
splitting only where a reduction is declared.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from alignment import IGNORE_INDEX, Finding
from alignment.findings import LOSS
from alignment.supervision import Supervision

from ..batches.barcoded import hand_labels
from ..batches.barcoded_v2 import collate_for
from ..batches.batch_source import to_device
from ..checks.reduction import Reduction, check_reduction, counted_loss, settled
from ..errors import CannotRunError, UsageError
from ..host.stopping import check_stopped
from ..models import Adapter, Batch, is_higgs
from ..models.adapter import LabelsAs, labels_as
from ..models.codebooks import CodebookAdapter
from ..witness.demands import expected_of
from ..witness.scout import fitted
from ..witness.witness import LossFunction, Options, Witness, witness
from .cases import MASKS, Case, End, Reference, Target, Text
from .redrawn import MakeBatch, Redrawn, redrawn, redrawn_strategy

__all__ = ["ALLOWED", "Contract", "Counterexample", "case_batch", "counts", "fuzz", "require_hypothesis", "run_case"]

#: What ``--allow`` lets a batch be: without any target, or with targets in one modality only.
ALLOWED = ("empty", "text-only", "audio-only")


@dataclass(frozen=True)
class Contract:
    """What the loss promises to work on: every batch, or those of the form that ``make_batch`` returns."""

    model: nn.Module
    adapter: Adapter
    loss: LossFunction
    labels: LabelsAs = "position-aligned"
    options: Options = field(default_factory=Options)
    allow: frozenset[str] = frozenset()
    reduction: Reduction | None = None
    grad_accum: int = 1
    keep: Callable[[Finding], bool] = lambda _: True
    make_batch: MakeBatch | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", labels_as(self.labels))

    def reader(self, batch: Batch) -> Adapter:
        """The adapter of one batch: where the rows of declared streams lie is learnt of each anew."""
        return fitted(self.model, self.adapter, batch, self.loss)

    def admits(self, expected: Sequence[Supervision]) -> bool:
        """Whether a batch with these expectations lies inside the contract."""
        text = any(bool((e.trained & ~e.lost).any()) for e in expected if not e.stream.is_audio)
        audio = any(e.count for e in expected if e.stream.is_audio)
        if isinstance(self.adapter, CodebookAdapter):
            spoken = any(e.stream.is_audio for e in expected)
            return (audio if spoken else text) or "empty" in self.allow
        if not is_higgs(self.adapter):
            return text or audio or "empty" in self.allow
        if text and audio:
            return True
        return ("text-only" if text else "audio-only" if audio else "empty") in self.allow


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found for one finding code, what was said on it, and how often it was seen."""

    code: str
    case: Case | Redrawn
    findings: tuple[Finding, ...]
    seen: int

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        findings = [f.as_dict() for f in self.findings]
        return {"code": self.code, "case": str(self.case), "seen": self.seen, "findings": findings}


def require_hypothesis() -> Any:
    """The hypothesis package.

    Raises:
        CannotRunError: it is not installed.
    """
    try:
        import hypothesis
    except ImportError as error:
        raise CannotRunError('fuzz needs hypothesis: pip install "loss-alignment[fuzz]"') from error
    return hypothesis


def case_strategy(*, audio: bool) -> Any:
    """Cases of 1 to 4 samples: any order of text, reference audio, target audio and ends of turn."""
    from hypothesis import strategies as st

    text = st.builds(Text, st.integers(1, 6), st.sampled_from(list(MASKS)))
    frames = st.integers(0, 4)
    pieces = [text]
    if audio:
        pieces += [
            st.builds(Target, frames, st.booleans()),
            st.builds(Reference, frames),
            st.builds(End, st.booleans()),
        ]
    sample = st.lists(st.one_of(pieces), min_size=1, max_size=6).map(tuple)
    return st.lists(sample, min_size=1, max_size=4).map(tuple).map(Case)


def _strategy(contract: Contract) -> Any:
    """The cases of a contract."""
    if contract.make_batch is None:
        return case_strategy(audio=is_higgs(contract.adapter))
    return redrawn_strategy(_samples(contract))


def _samples(contract: Contract) -> int:
    """How many samples a batch of one's own has."""
    return len(contract.adapter.split(contract.model, case_batch(contract, Redrawn(0))))


def case_batch(contract: Contract, case: Case | Redrawn) -> Batch:
    """The batch of a case, on the model's device, with labels as the contract hands them."""
    adapter, model = contract.adapter, contract.model
    if isinstance(case, Redrawn):
        assert contract.make_batch is not None
        return redrawn(model, adapter, contract.make_batch, case)
    if is_higgs(adapter):
        batch = collate_for(adapter, model, case.higgs_samples())
        batch = hand_labels(batch, contract.labels, key=adapter.label_keys[0])
    else:
        if not all(isinstance(piece, Text) for sample in case.samples for piece in sample):
            raise UsageError(f"--case {case}: this model reads text alone; use pieces tN with a letter")
        from ..batches.codebook_batch import codes_under
        from ..batches.encoder_noise import as_read
        from ..batches.plain_batch import covered, ordinary_ids

        if isinstance(adapter, CodebookAdapter):  # frames stand where tokens of text do
            frames = case.text_batch(torch.arange(1))["labels"] != IGNORE_INDEX
            frames = pad(frames, (0, max(0, 2 - frames.shape[1])))  # text beside one frame alone has no target
            return to_device(codes_under(adapter, model, frames, 0), next(model.parameters()).device)
        inner, usable = adapter.inner(model), ordinary_ids(adapter, model)
        batch = as_read(inner, covered(inner, case.text_batch(usable), usable))
        batch = hand_labels(batch, contract.labels, key="labels")
    return to_device(batch, next(model.parameters()).device)


def run_case(contract: Contract, case: Case | Redrawn) -> tuple[Batch, Witness, list[Finding]] | None:
    """Watch the loss on one case; None where the case lies outside the contract."""
    check_stopped()
    model, batch = contract.model, case_batch(contract, case)
    adapter = contract.reader(batch)
    view = adapter.view(model, batch)
    expected, _ = expected_of(view, contract.options.convention)
    told = any(labels is not None for labels in view.labels)  # a batch of one's own may say nothing of what is due
    if told and not contract.admits(expected):
        return None
    loss = counted_loss(contract.loss, model, adapter, batch, contract.options)
    seen = witness(model, adapter, batch, loss, contract.options)
    findings = [
        f for f in seen.findings if f.basis == LOSS
    ]  # the labels are ours: what they lack is no fault of the loss
    if contract.reduction is not None and len(adapter.split(model, batch)) >= max(2, contract.grad_accum):
        reduced = check_reduction(
            model, adapter, batch, contract.loss, contract.reduction, contract.grad_accum, contract.options
        )
        findings = settled(findings, reduced.findings, contract.reduction)
    if told and not any(one.count for one in expected):  # allowed to be empty: then nothing must be trained
        findings = [f for f in findings if f.code not in ("LA206", "LA501") and not f.is_blind]
    return batch, seen, [f for f in findings if contract.keep(f)]


def counts(finding: Finding) -> bool:
    """Whether a case with this finding is a counterexample: it is wrong, or part of it could not be read."""
    return finding.is_error or finding.is_blind


def fuzz(
    contract: Contract, *, examples: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[int, list[Counterexample]]:
    """Draw cases, and shrink one counterexample per finding code.

    Returns:
        How many cases were inside the contract, and the counterexamples, by code.
    """
    hypothesis = require_hypothesis()
    strategy = _strategy(contract)
    counted: dict[str, int] = {}
    first: dict[str, Case | Redrawn] = {}
    inside = 0

    def codes(case: Case | Redrawn) -> set[str]:
        ran = run_case(contract, case)
        hypothesis.assume(ran is not None)
        return {f.code for f in ran[2] if counts(f)}  # type: ignore[index]

    def look(case: Case | Redrawn) -> None:
        nonlocal inside
        found = codes(case)
        inside += 1
        progress(inside)
        for code in found:
            counted[code] = counted.get(code, 0) + 1
            first.setdefault(code, case)

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    with _nothing_left_behind():
        hypothesis.seed(seed)(settings(hypothesis.given(strategy)(look)))()
        return inside, [
            _shrunk(contract, code, first[code], counted[code], strategy, seed, examples) for code in sorted(first)
        ]


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """What hypothesis writes down lies in a folder of its own, which goes again: none in the working directory."""
    from hypothesis import configuration

    before = vars(configuration).get("__hypothesis_home_directory")
    with tempfile.TemporaryDirectory(prefix="loss-align-") as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(before)


def _shrunk(
    contract: Contract, code: str, first: Case | Redrawn, seen: int, strategy: Any, seed: int, examples: int
) -> Counterexample:
    """The smallest case on which ``code`` is found."""
    hypothesis = require_hypothesis()

    def shows(case: Case | Redrawn) -> bool:
        ran = run_case(contract, case)
        return ran is not None and any(f.code == code and counts(f) for f in ran[2])

    settings = hypothesis.settings(
        max_examples=10 * examples, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    if isinstance(first, Redrawn):
        smallest = next(filter(shows, first.smaller(_samples(contract))), first)
    else:
        try:
            smallest = hypothesis.find(strategy, shows, settings=settings, random=random.Random(seed))  # noqa: S311
        except hypothesis.errors.NoSuchExample:
            smallest = first
    ran = run_case(contract, smallest)
    assert ran is not None
    return Counterexample(code, smallest, tuple(ran[2]), seen)
