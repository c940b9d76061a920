"""Decoding: the logits that generation sees, step by step with the cache, are those that training forced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from alignment import Finding, InputError
from alignment.findings import finding

from ..errors import UsageError
from ..host.preserve import preserved
from ..models import Adapter, Batch
from ..models.adapter import CannotDecodeError, Step
from ..models.forward import Outputs, all_finite, can_be_learnt, forward
from ..models.modules import routes_by_capacity
from ..records.report import Check
from ..replay.calls import Loss, NotReplayedError, Scene
from ..replay.given import Given, given_by
from ..replay.perturbation import OTHER_ORDER, Rounding, near_ties, row_changes
from .witness_checks import named

__all__ = ["decode_check"]

TITLE = "Decoding step by step gives the logits of training"
#: Positions of one sample that are decoded one by one; those before them fill the cache.
STEPS = 96
#: How many roundings of its largest logit a row may be off that the loss computed in a coarser type (autocast).
COARSER = 4
#: Why a right model that chooses may differ.
NEAR_TIES = "rounding alone moves logits as far: the model chooses (an expert, a token) between near equals"


@dataclass
class _Compared:
    """Decoded rows held to those of the teacher-forced forward, per kind."""

    steps: dict[str, int] = field(default_factory=lambda: {"text": 0, "audio": 0})
    worst: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {"text": [], "audio": []})
    doubts: set[str] = field(default_factory=set)

    def add(self, step: Step, teacher: Tensor, rounding: Rounding) -> None:
        change = row_changes([step.logits], [teacher])[0]
        error = float(change.max())
        self.steps[step.kind] += 1
        self.worst[step.kind] = max(self.worst.get(step.kind, 0.0), error)
        if not bool(rounding.explains(change, step.kind, OTHER_ORDER).all()):
            self.wrong[step.kind].append((step.row, error))
            self.doubts |= {step.doubt} - {""}

    @property
    def differ(self) -> int:
        return sum(map(len, self.wrong.values()))

    @property
    def errors(self) -> dict[str, float]:
        return {kind: max(error for _, error in rows) for kind, rows in self.wrong.items() if rows}


def decode_check(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    rounding: Rounding | None = None,
    loss_fn: Loss | None = None,
) -> tuple[Check, list[Finding]]:
    """Decode the end of the first sample, and compare each step with the forward that is trained.

    That is the loss's own where ``loss_fn`` is given and runs on one sample: it may train without the cache that
    decoding has. ``rounding`` is of the batch; of that sample where None.
    """
    sample = adapter.split(model, batch)[0]
    told = _Compared()
    with preserved(model), torch.no_grad():
        model.eval()
        try:
            forced = forward(model, adapter, sample)
        except Exception as error:  # noqa: BLE001 - the batch ran: a model that cannot run one of its samples is named
            return Check("decode", TITLE, "skip", f"the first sample alone raises {type(error).__name__}: {error}"), []
        given = forced.audio_logits if forced.logits is None else forced.logits
        if given is None or not (all_finite(given) or can_be_learnt(given)):
            return Check("decode", TITLE, "fail", "the logits are not finite"), []
        rounding = rounding or Rounding(model, adapter, sample, forced)
        given = partial(_given, model, adapter, sample)
        teacher = _Teacher(forced, given(loss_fn), lambda: given(adapter.outputs))
        try:
            for step in adapter.decode(model, sample, STEPS):
                told.add(step, teacher.row(step), rounding)
        except CannotDecodeError as error:
            return Check("decode", TITLE, "skip", str(error)), []
        if told.differ:
            told.doubts |= {routes_by_capacity(model)} - {""}
            if not told.doubts and near_ties(model, adapter, sample, forced, told.errors):
                told.doubts.add(NEAR_TIES)
    return _verdict(told, rounding, teacher.unseen)


@dataclass
class _Teacher:
    """Teacher-forced logits: those of a forward of our own, moved as those are that the loss saw at its heads.

    A model may cap or scale what its heads give: the loss's heads are compared with the heads of our forward.

    Args:
        forced: our forward.
        given: by the loss's heads, one entry per stream.
        plain: makes the same of our forward.
    """

    forced: Outputs
    given: Sequence[Given]
    plain: Callable[[], Sequence[Given]]

    def row(self, step: Step) -> Tensor:
        audio = step.kind == "audio"
        forced = self.forced.audio_logits[step.row] if audio else self.forced.logits[0, step.row]
        rows = _rows(self.given, step)
        if rows is None or torch.equal(rows, forced) or _rounded(rows, forced):
            return forced
        plain = _rows(self._plain, step)
        if plain is None or torch.equal(plain, forced):
            return rows
        if torch.equal(rows, plain) or _rounded(rows, plain):
            return forced
        moved = (rows - plain) * (forced.abs().max() / plain.abs().max()).clamp(max=1)
        return forced + (moved if moved.shape == forced.shape else moved.abs().amax(-1, keepdim=True))  # cut, or not

    @property
    def unseen(self) -> str:
        """What was not compared: a loss that calls the body alone need not cap or scale logits as the model does."""
        if "_plain" not in vars(self) or not any(one.body for one in self.given):
            return ""
        return "; whether the loss caps or scales its logits as the model does was not compared"

    @cached_property
    def _plain(self) -> Sequence[Given]:
        return self.plain()


def _rows(given: Sequence[Given], step: Step) -> Tensor | None:
    """What the heads gave a row, in the shape of its logits; None where it was given nothing."""
    audio = step.kind == "audio"
    mine = [one for one in given[1:] if len(one.at)] if audio else given[:1]
    found = [rows for one in mine if (rows := one.row(step.row)) is not None]
    if not found or len(found) != len(mine):
        return None
    return torch.stack(found) if audio else found[0]


def _rounded(rows: Tensor, exact: Tensor) -> bool:
    """Whether rows are the others in a coarser type."""
    rounding = torch.finfo(rows.dtype).eps
    far = COARSER * rounding * float(exact.abs().max())
    return rounding > torch.finfo(exact.dtype).eps and bool(((rows - exact).abs() <= far).all())


def _given(model: nn.Module, adapter: Adapter, sample: Batch, loss_fn: Loss | None) -> list[Given]:
    if loss_fn is None:
        return []
    try:
        return given_by(Scene(model, adapter, adapter.view(model, sample), loss_fn), sample)
    except (NotReplayedError, UsageError, InputError):
        return []


def _verdict(told: _Compared, rounding: Rounding, unseen: str) -> tuple[Check, list[Finding]]:
    if told.doubts:
        return Check("decode", TITLE, "skip", f"{told.differ} rows differ, but {'; '.join(sorted(told.doubts))}"), []
    findings = [
        finding(
            "LA604",
            kind,
            f"{len(rows)} of {told.steps[kind]} decoded {kind} rows differ from teacher forcing, by up to "
            f"{told.errors[kind]:.1e} (rounding explains {rounding.allowed(kind, OTHER_ORDER):.1e}); "
            f"first at sample 0 row {rows[0][0]}",
            count=len(rows),
            basis="decoding against teacher forcing",
        )
        for kind, rows in told.wrong.items()
        if rows
    ]
    if findings:
        return Check("decode", TITLE, "fail", named(findings)), findings
    if not sum(told.steps.values()):
        return Check("decode", TITLE, "skip", "the sample has no position to decode"), []
    shown = ", ".join(f"{told.steps[kind]} {kind} rows within {error:.1e}" for kind, error in told.worst.items())
    return Check("decode", TITLE, "pass", f"{shown} of teacher forcing{unseen}"), []
