"""Standard output that one report owns: whatever else prints meanwhile goes to standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["kept_standard_output", "standard_error", "standard_output"]

#: Where ``-`` writes while standard output is kept for it; the last one holds.
_KEPT: list[TextIO] = []


@contextmanager
def kept_standard_output() -> Iterator[None]:
    """Keep standard output for what is written to ``-``: whatever else prints, a child too, goes to standard error."""
    shown = sys.stdout
    try:
        descriptor, errors = shown.fileno(), sys.stderr.fileno()
        apart = os.fdopen(os.dup(descriptor), "w", encoding=getattr(shown, "encoding", None) or "utf-8")
    except (OSError, ValueError, AttributeError):  # replaced by something that is no file
        descriptor = errors = -1
        apart = shown
    if descriptor >= 0:
        shown.flush()
        os.dup2(errors, descriptor)
    _KEPT.append(apart)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _KEPT.pop()
        sys.stdout = shown
        if descriptor >= 0:
            apart.flush()
            os.dup2(apart.fileno(), descriptor)
            apart.close()


def standard_error() -> TextIO:
    """Standard error; the process's own where a script has put nothing in its place."""
    return sys.stderr or sys.__stderr__ or io.StringIO()


def standard_output() -> TextIO:
    """Where ``-`` writes."""
    return _KEPT[-1] if _KEPT else sys.stdout
