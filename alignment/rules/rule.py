"""What one entry of the catalogue holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Rule", "Severity"]

Severity = Literal["error", "warning", "blind"]


@dataclass(frozen=True)
class Rule:
    """One entry of the catalogue.

    Attributes:
        code: the stable code, never reused.
        name: the readable name, unique as the code is.
        severity: what a finding of this code is, unless ``lesser`` says otherwise.
        summary: what it is, in one line.
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
    """

    code: str
    name: str
    severity: Severity
    summary: str
    silent: str
    fix: str
    case: str = "No public case on record."
    note: str = ""
    checks: tuple[str, ...] = ()
    absorbs: tuple[str, ...] = ()
    audio_fix: str = ""
    lesser: str = ""
    of_rows: bool = True

    @property
    def severities(self) -> str:
        """The severity, and that it may be a lesser one."""
        return f"{self.severity}, or warning" if self.lesser else self.severity

    def fix_of(self, stream: str) -> str:
        """What to do about a finding on ``stream``."""
        return self.audio_fix if self.audio_fix and stream.startswith("audio") else self.fix
