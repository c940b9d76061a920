"""What one entry of the catalogue holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["RIGHT_AUDIO", "RIGHT_TEXT", "Judgement", "Rule", "Severity"]

Severity = Literal["error", "warning", "blind"]

#: A loss of a text model as it should be.
RIGHT_TEXT = """\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
"""
#: A loss of a model with a head for each codebook as it should be.
RIGHT_AUDIO = """\
model, batch, options = speech()


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    pairs = [(heads[k][:, :-1], codes[:, k, 1:]) for k in range(2)]
    return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)
"""

#: From what is judged (see ``judged``) to findings.
Judgement = Callable[[Any], Iterator[Any]]


@dataclass(frozen=True)
class Rule:
    """One entry of the catalogue.

    Attributes:
        code: the stable code, never reused.
        name: the readable name, unique as the code is.
        severity: what a finding of this code is, unless ``lesser`` says otherwise.
        summary: what it is, in one line.
        headline: what was found, as a page says it first: ``{trained}``, ``{wanted}`` and ``{rows}`` are its rows among
            those that are trained or must be, and by themselves, ``{all}`` those that must be, ``{stream}`` is where,
            ``{message}`` its message as far as a semicolon; ``[is|are]`` agrees with the rows.
        silent: why nobody notices it.
        fix: what to do about it; shown under every finding.
        case: a real case with its public reference, or that none is on record.
        note: conditions and consequences.
        checks: the ids of the checks that an error of this code fails (``pairing`` and ``loss`` stand for both
            modalities).
        absorbs: codes that are not reported beside it for the same stream, because it is their cause.
        audio_fix: what to do about it on an audio stream, where that differs: a text model is told nothing of audio.
        lesser: when a finding is a warning instead of an error.
        of_rows: whether a finding's count is of rows, and not of lengths, forward passes or adapters.
        absorbs_beside: codes that are not reported for the other streams of its modality either.
        of_loss: judges what a loss makes of one stream, a ``Judged``; None where something else finds it.
        of_all: judges all streams together, a sequence of ``Judged``.
        of_labels: judges the labels of one stream, a ``Labelled``.
        bad: an example that it is found in: a ``loss(model, batch)``, and what is special of its model or batch.
        good: the same as it should be. A test runs both, with a small model and a batch of its own.
    """

    code: str
    name: str
    severity: Severity
    summary: str
    headline: str
    silent: str
    fix: str
    case: str = "No public case on record."
    note: str = ""
    checks: tuple[str, ...] = ()
    absorbs: tuple[str, ...] = ()
    audio_fix: str = ""
    lesser: str = ""
    of_rows: bool = True
    absorbs_beside: tuple[str, ...] = ()
    of_loss: Judgement | None = None
    of_all: Judgement | None = None
    of_labels: Judgement | None = None
    bad: str = ""
    good: str = RIGHT_TEXT

    @property
    def severities(self) -> str:
        """The severity, and that it may be a lesser one."""
        return f"{self.severity}, or warning" if self.lesser else self.severity

    def fix_of(self, stream: str) -> str:
        """What to do about a finding on ``stream``."""
        return self.audio_fix if self.audio_fix and stream.startswith("audio") else self.fix
