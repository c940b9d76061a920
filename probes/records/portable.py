"""A report that another process can be given: what it would make on demand is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .report import Report
from .row_story import RowStory

__all__ = ["portable"]


@dataclass(frozen=True)
class _Rows:
    """Rows that were made."""

    made: Sequence[RowStory]

    def __call__(self) -> Sequence[RowStory]:
        return self.made


@dataclass(frozen=True)
class _Names:
    """How tokens are written, as far as any row holds them."""

    known: dict[int, str]

    def __call__(self, token: int) -> str:
        return self.known.get(token, str(token))


def portable(report: Report) -> Report:
    """The same report, which can be pickled."""
    rows = tuple(report.rows())
    tokens = {token for row in rows for token in (row.token, row.target, row.expected)}
    names = _Names({token: report.token_name(token) for token in sorted(tokens)})
    return replace(report, rows=_Rows(rows), token_name=names, words=None if report.words is None else names)
