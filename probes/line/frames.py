"""Where in the code an operation stands: the user's own line, and the library's behind it."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

import torch

__all__ = ["Frame", "Place", "where"]

#: Where installed packages lie, whoever installed them.
INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
#: Code that is nobody's, between an operation and the line that asked for it: torch's, ours, the standard library's.
SKIPPED = tuple(
    str(Path(path).resolve()) + os.sep
    for path in (
        Path(torch.__file__).parent,
        Path(__file__).parents[1],
        Path(__file__).parents[2] / "alignment",
        sysconfig.get_path("stdlib"),
    )
)
#: Where the functions of torch.autograd that people write are called.
AUTOGRAD = torch.autograd.function.__file__


@dataclass(frozen=True)
class Frame:
    """One line of a file, in a function of it.

    ``span`` are the columns, of its UTF-8, of what is asked for there; None where that is not known.
    """

    file: str
    line: int
    span: tuple[int, int] | None = field(default=None, compare=False)
    function: str = field(default="", compare=False)

    def joined(self, other: Frame) -> Frame:
        """The same line with the columns of both."""
        if self.span is None or other.span is None:
            return self
        return replace(self, span=(min(self.span[0], other.span[0]), max(self.span[1], other.span[1])))

    @property
    def text(self) -> str:
        """What stands there, as it stands; empty where the file cannot be read."""
        return linecache.getline(self.file, self.line).rstrip()

    @property
    def code(self) -> str:
        """The same without what it is indented by."""
        return self.text.strip()

    @property
    def indent(self) -> int:
        """How far it is indented."""
        return len(self.text) - len(self.text.lstrip())

    @property
    def mark(self) -> tuple[int, int]:
        """The part of the code that is asked for; (0, 0) where it is not known."""
        if self.span is None:
            return 0, 0
        first, last = (len(self.text.encode()[:column].decode(errors="ignore")) - self.indent for column in self.span)
        return (first, last) if 0 <= first < last <= len(self.code) else (0, 0)

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.file).name

    @property
    def is_library(self) -> bool:
        """Whether it is installed code."""
        return _is_library(self.file)

    @property
    def shown(self) -> str:
        """The file, as its package names it, or relative to the working directory where it lies under it."""
        installed = next((folder for folder in INSTALLED if folder in self.file), "")
        if installed:
            return self.file.rpartition(installed)[2]
        if cell := _cell(self.file):
            return cell
        here = os.getcwd()  # noqa: PTH109 - a path that is compared as text
        return os.path.relpath(self.file, here) if self.file.startswith(here + os.sep) else self.file


@dataclass(frozen=True)
class Place:
    """Where an operation was asked for.

    Attributes:
        own: the innermost line of the user's code; None where there is none.
        library: the innermost line of a library that the user's line called; None where there is none.
        callers: the user's lines that called the function of ``own``, inner ones first.
    """

    own: Frame | None
    library: Frame | None
    callers: tuple[Frame, ...] = field(default=(), compare=False)

    def joined(self, other: Place) -> Place:
        """The place of two operations in one line: the columns of both."""
        own, library = (
            one if one is None or more is None else one.joined(more)
            for one, more in ((self.own, other.own), (self.library, other.library))
        )
        return Place(own, library, self.callers)

    @property
    def innermost(self) -> Frame | None:
        """The line in which the operation is written."""
        return self.library or self.own


def _cell(file: str) -> str:
    """``Cell In[3]`` where a file is a cell of a notebook; empty elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return " ".join(shell.compile.format_code_name(file) or ()) if shell else ""


def where(outermost: FrameType | None) -> Place:
    """The place of the operation that is running now, on the stack above ``outermost``."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the stack is what is asked for
    own = library = None
    callers: list[Frame] = []
    while frame is not None and frame is not outermost:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "apply" and file == AUTOGRAD:
            own, library, callers = (
                None,
                None,
                [],
            )  # what its forward does says nothing of its backward: the call is the line
        elif not _is_skipped(file):
            here = Frame(file, frame.f_lineno, _span(frame), frame.f_code.co_name)
            if not _is_library(file):
                callers += [] if own is None or here in (own, *callers) else [here]
                own = own or here
            elif own is None:
                library = library or here
        frame = frame.f_back
    return Place(own, library, tuple(callers))


def _span(frame: FrameType) -> tuple[int, int] | None:
    """The columns of what a frame is at; from Python 3.11 on."""
    line, first, last = _columns(frame.f_code, frame.f_lasti)
    return None if line != frame.f_lineno or first is None or last is None else (first, last)


@lru_cache(maxsize=4096)
def _columns(code: CodeType, at: int) -> tuple[int | None, int | None, int | None]:
    """The line of an instruction and its columns, to the end of the line where it goes on in the next: read once."""
    positions = getattr(code, "co_positions", None)
    if positions is None or at < 0:
        return None, None, None
    line, last, first_column, last_column = next(islice(positions(), at // 2, None), (None,) * 4)
    return line, first_column, last_column if last == line or last_column is None else sys.maxsize


@cache
def _is_skipped(file: str) -> bool:
    if file.startswith("<") and not linecache.getline(file, 1):
        return True  # made by another program, as dataclasses are
    path = str(Path(file).resolve())
    return path.startswith(SKIPPED[:-1]) or (path.startswith(SKIPPED[-1]) and not _is_library(file))


@cache
def _is_library(file: str) -> bool:
    return any(folder in file for folder in INSTALLED)
