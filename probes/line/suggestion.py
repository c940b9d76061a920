"""A suggestion that is proven: a line that pairs logits and labels rightly, with which the loss has been run."""

from __future__ import annotations

import ast
import difflib
import inspect
import linecache
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from alignment import Finding

from .edits import edits_of

if TYPE_CHECKING:
    from ..records.report import Report

__all__ = ["SUGGESTED", "Suggestion", "add_suggestion", "suggestion"]

#: Findings that slices, rolls and pads alone can make.
SUGGESTED = frozenset({"LA101", "LA102", "LA103", "LA104"})
#: How many lines are tried.
MOST = 40


@dataclass(frozen=True)
class Suggestion:
    """One line, as it stands and as it would be.

    Attributes:
        file: as it is shown.
        line: its number.
        before: as it stands.
        after: with which the loss trains what it must.
    """

    file: str
    line: int
    before: str
    after: str

    def diff(self) -> str:
        """A patch to look at."""
        text = linecache.getlines(os.path.abspath(self.file))  # noqa: PTH100 - as linecache names it
        changed = [*text[: self.line - 1], f"{self.after}\n", *text[self.line :]]
        return "".join(difflib.unified_diff(text, changed, f"a/{self.file}", f"b/{self.file}"))


def add_suggestion(report: Report, loss_fn: Callable[..., Any], passes: Callable[[Callable[..., Any]], bool]) -> None:
    """Put into a report the patch with which ``passes(loss)`` holds, where there is one."""
    found = suggestion(report.findings, loss_fn, passes)
    if found is not None:
        told = f"with {found.file}:{found.line} as `{found.after.strip()}` the verdict is PASS; nothing was written"
        report.notes.append(told)
        report.patch = found.diff()


def suggestion(
    findings: Sequence[Finding], loss_fn: Callable[..., Any], passes: Callable[[Callable[..., Any]], bool]
) -> Suggestion | None:
    """The first edit of a named line with which ``passes(loss)`` holds; None where there is none.

    Only for a loss that is a function of a file, and lines of that file: each candidate is compiled in its place, with
    the same globals, and run. Nothing is written.
    """
    loss_fn = inspect.unwrap(loss_fn)
    errors = [one for one in findings if one.is_error]
    if not isinstance(loss_fn, FunctionType) or not errors or any(one.code not in SUGGESTED for one in errors):
        return None
    file = inspect.getsourcefile(loss_fn)
    lines = {(line.line, line.file) for one in errors for line in one.lines if line.own}
    tried = 0
    for number, shown in sorted(lines, reverse=True):  # the last word is the loss's own
        if file is None or os.path.abspath(shown) != os.path.abspath(file):  # noqa: PTH100 - may no longer be there
            continue
        for after, loss in _candidates(loss_fn, file, number):
            tried += 1
            if tried > MOST:
                return None
            if passes(loss):
                before = linecache.getline(file, number).rstrip("\n")
                return Suggestion(shown, number, before, after)
    return None


def _candidates(loss_fn: FunctionType, file: str, number: int) -> Iterator[tuple[str, FunctionType]]:
    """Every edit of a line, and the loss with it."""
    held = _holder(loss_fn, file, number)
    if held is None:
        return
    source, first = inspect.getsourcelines(held)
    text = textwrap.dedent("".join(source)).splitlines()
    indent = len(source[0]) - len(source[0].lstrip())
    tree = ast.parse("\n".join(text))
    for after in edits_of(tree, number - first + 1, text[number - first]):
        changed = [*text[: number - first], after, *text[number - first + 1 :]]
        made = _rebuilt(loss_fn, held, "\n" * (first - 1) + "\n".join(changed), file)
        if made is not None:
            yield " " * indent + after, made


def _holder(loss_fn: FunctionType, file: str, number: int) -> FunctionType | None:
    """The function of the loss's module in which a line stands; None where that is none that can be compiled alone."""
    for one in (loss_fn, *loss_fn.__globals__.values()):
        if not isinstance(one, FunctionType) or one.__code__.co_filename != file or one.__code__.co_freevars:
            continue
        source, first = inspect.getsourcelines(one)
        if first <= number < first + len(source):
            return one
    return None


def _rebuilt(loss_fn: FunctionType, held: FunctionType, source: str, file: str) -> FunctionType | None:
    """The loss in a module like its own, but for one function."""
    space = dict(loss_fn.__globals__)
    try:
        exec(compile(source, file, "exec"), space)  # noqa: S102 - the user's own line, but for a slice
    except SyntaxError:
        return None
    changed = space.get(held.__name__)
    for name, one in list(space.items()):
        if isinstance(one, FunctionType) and one.__code__.co_filename == file and one is not changed:
            space[name] = FunctionType(one.__code__, space, one.__name__, one.__defaults__, one.__closure__)
    made = changed if held is loss_fn else space.get(loss_fn.__name__)
    return made if isinstance(made, FunctionType) else None
