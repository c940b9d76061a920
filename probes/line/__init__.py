"""The line: which lines of code made a finding, shown by where every element of a label or a logit comes from."""

from __future__ import annotations

from .add import with_lines

__all__ = ["with_lines"]
