"""The line: which lines of code made a finding, shown by where every element of a label or a logit comes from."""

from __future__ import annotations

from .add import with_lines
from .suggestion import add_suggestion

__all__ = ["add_suggestion", "with_lines"]
