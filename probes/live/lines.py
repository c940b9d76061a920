"""The lines behind what the first watched step showed, looked for in the second: the script's own run, on a tape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from alignment import Finding, InputError

from ..line.add import explained, has_lines
from ..line.frames import Place
from ..line.nodes import Node, Root
from ..line.tape import Tape
from ..line.traced import Traced
from ..line.tracing import row_numbers
from ..records.report import Report
from . import launch
from .forwards import Forward
from .head_calls import Call
from .placing import numbers_of, rows_of

if TYPE_CHECKING:
    from .observed import Observed

__all__ = ["Lines", "begun_after"]


def begun_after(steps: Sequence[Sequence[Forward]]) -> Lines | None:
    """Look for lines from now on, where these steps show something that lines make; None where they do not.

    Compiled modules run on as they are: what happens in them cannot be seen without changing it.
    """
    with suppress(Exception):  # why the steps cannot be judged is told once they are over
        found = _shown(steps)
        compiled = any(type(one).__name__ == "OptimizedModule" for step in steps for one in step[0].model.modules())
        if any(has_lines(one) for one in found) and not compiled:
            lines = Lines()
            lines.begin()
            return lines
    return None


def _shown(steps: Sequence[Sequence[Forward]]) -> Sequence[Finding]:
    """What steps show so far; which heads there are is settled once all of them are over."""
    from .observed import observe

    adapters = [(forward, forward.adapter) for step in steps for forward in step]
    try:
        return observe(steps).witness.findings
    finally:
        for forward, adapter in adapters:
            forward.adapter = adapter


def _launcher() -> FrameType | None:
    """The frame that has started the script: what called it is no code of the user's."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the stack is what is asked for
    while frame is not None and frame.f_code.co_filename != launch.__file__:
        frame = frame.f_back
    return frame


class Lines:
    """Follows rows and tokens through one step of a script, from the step before on; numbers nothing of it changes.

    Attributes:
        tape: of the step.
    """

    def __init__(self) -> None:
        self.tape = Tape()
        self.tape.bears = True
        self._heads: list[tuple[Root, Forward, Call]] = []
        self._given: dict[int, dict[str, Tensor]] = {}
        self._losses: list[Node] = []
        self._begun = False

    def begin(self) -> None:
        """Look on from now."""
        self.tape.outermost = _launcher()
        self.tape.__enter__()
        self._begun = True

    def end(self) -> None:
        """Look on no more. Where a mode of the script's own lies above it, the tape stays, and sees nothing."""
        self.tape.asleep, self.tape.outermost = 1 << 30, None
        if self._begun and _get_current_dispatch_mode() is self.tape:
            self.tape.__exit__(None, None, None)
            self._begun = False

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What is done meanwhile is ours."""
        self.tape.asleep += 1
        try:
            yield
        finally:
            self.tape.asleep -= 1

    # -- what the watcher tells ---------------------------------------------------------------------

    def _safely(self, own: Callable[..., None], *words: Any) -> None:
        """What it raises is told with the findings, and ends nothing but the looking."""
        try:
            own(*words)
        except Exception as error:  # noqa: BLE001 - the script and the report go on without lines
            self.tape.broken = f"{type(error).__name__}: {error}"

    def received(self, forward: Forward, given: dict[str, Any]) -> None:
        """A forward begins with these arguments."""
        self._safely(self._received, forward, given)

    def _received(self, forward: Forward, given: dict[str, Any]) -> None:
        mine = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.dim()}
        self._given[id(forward)] = mine
        for key, value in mine.items():
            if not value.is_floating_point() and self.tape.node(value) is None:
                self.tape.number(value, key)

    def called(self, forward: Forward, output: Tensor) -> None:
        """A head of a forward has given its logits."""
        self._safely(self._called, forward, output)

    def _called(self, forward: Forward, output: Tensor) -> None:
        if forward.calls:
            call = forward.calls[-1]
            self._heads.append((self.tape.number_rows(output, row_numbers(call.head, output)), forward, call))

    def returned(self, roots: Sequence[Tensor]) -> None:
        """A backward has ended that began there."""
        self._losses += [node for one in roots if (node := self.tape.node(one)) is not None]

    # -- what it comes to ----------------------------------------------------------------------------

    def add_to(self, report: Report, observed: Observed) -> None:
        """Give the findings of a report their lines."""
        if any(has_lines(one) for one in report.findings):
            told = Traced(self.tape, observed.witness)
            self._safely(self._fill, told, observed)
            report.findings = explained(report.findings, told)

    def _fill(self, told: Traced, observed: Observed) -> None:
        """Lay what was seen of the step over what all steps showed."""
        seen = observed.witness
        names = {stream.name: number for number, stream in enumerate(seen.view.streams)}
        told.only = [torch.zeros(len(stream), dtype=torch.bool) for stream in seen.view.streams]
        told.demands = [torch.full((len(stream),), -1) for stream in seen.view.streams]
        told.loss = Node(len(self.tape.nodes), "", Place(None, None), tuple(self._losses), ()) if self._losses else None
        base = dict.fromkeys(names, 0)
        for forward, part in zip(observed.forwards, observed.parts, strict=True):
            for number, stream in enumerate(part.view.streams):
                begin = base[stream.name]
                base[stream.name] += len(stream)
                if id(forward) in self._given:
                    self._place(told, forward, number, names[stream.name], begin)
        told.meet()

    def _place(self, told: Traced, forward: Forward, number: int, joined: int, begin: int) -> None:
        """Rows and labels of one stream of a forward, in the whole."""
        view = forward.view
        stream = view.streams[number]
        for root, mine, call in self._heads:
            numbers = numbers_of(forward, call, view)
            if mine is not forward or number not in numbers or call.reading is None:
                continue
            book, books = numbers.index(number), call.head.books
            with suppress(InputError):
                rows = rows_of(forward, call, view, number, len(call.reading.target) // books)
                told.place(root.first + book, torch.where(rows >= 0, rows + begin, -1), joined, books)
                told.only[joined][begin : begin + len(stream)] = True
        labels = view.labels[number]
        for key, value in self._given[id(forward)].items():
            node = self.tape.node(value)
            tokens = None if node is None else node.thin.get("tokens")
            if node is None or tokens is None or tokens.numel() != len(stream):
                continue
            roots = {root.first for code in tokens.flatten().tolist() if (root := self.tape.root_of(code)) is not None}
            if "label" not in key:
                told.handed |= dict.fromkeys(roots, key)
                told.handed_nodes |= {node}
            elif labels is not None:
                told.demands[joined][begin : begin + len(stream)] = tokens.flatten().cpu()
                told.label_roots |= roots
                told.label_nodes |= {node}
