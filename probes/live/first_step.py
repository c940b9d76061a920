"""The first step of a training loop that is not ours, judged after its backwards and before it moves a weight.

A framework's callback is told when an optimizer is about to step. What ``run`` reads off a whole process is read off
the loop between two of its events, and nothing of the run is repeated or changed.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from torch.optim.optimizer import Optimizer

from ..checks.reduction import Reduction
from ..host.preserve import same_random_state
from ..models.declaration import Declaration
from ..records.choice import Choice
from ..records.report import Report, unread_report
from ..report.terminal import console_for, show
from .judged import report_of_watched
from .watcher import ENDED, Watcher

__all__ = ["FirstStep", "OnFindings", "acted_on"]

OnFindings = Literal["fail", "warn", "report"]


class FirstStep:
    """Watches from ``begin`` to the first step of an optimizer.

    Args:
        heads: names of head modules.
        streams: declared of the model.
        keep: which findings count.
        template: what else is known of the text; None if nothing is.
        steps: how many to watch, where nobody calls ``about_to_step``.
        reduction: what the weights of a step are declared to keep to; None if nothing is.
    """

    def __init__(
        self,
        heads: Sequence[str],
        streams: Sequence[Declaration],
        keep: Choice,
        template: Any = None,
        steps: int = 1,
        reduction: Reduction | None = None,
    ) -> None:
        self.keep, self.template, self.reduction = keep, template, reduction
        self._watcher = Watcher(steps, heads, self._judge, streams)
        self._report: Report | None = None

    def begin(self) -> None:
        """Watch from now on."""
        self._watcher.start()

    def about_to_step(self, optimizer: Optimizer) -> Report | None:
        """The report, where this is the optimizer of the model that was watched; None before."""
        if self._report is None:
            self._watcher.stepping(optimizer)
        return self._end() if self._report is not None else None

    def end(self) -> Report:
        """The report of a loop that has ended."""
        if self._report is None:
            self._watcher.finish(ENDED)
        return self._end()

    def leave(self) -> None:
        """Leave no trace, whatever has ended the loop."""
        self._watcher.remove()

    def _end(self) -> Report:
        self.leave()
        assert self._report is not None
        return self._report

    def _judge(self, watcher: Watcher) -> None:
        failed = watcher.failed
        try:
            told = {"template": self.template, "keep": self.keep, "reduction": self.reduction}
            with same_random_state():
                self._report = None if failed else report_of_watched(watcher, **told)
        except Exception:  # noqa: BLE001 - the loop must go on, whatever is wrong with us
            failed = traceback.format_exc()
        if failed:
            last = failed.strip().splitlines()[-1]
            self._report = unread_report(f"watching stopped by an error of its own ({last})", self.keep)


def acted_on(report: Report, on_findings: str, *, speaks: bool = True) -> None:
    """Fail, warn or show, as a callback was told to; a training that merely cannot be judged is never ended.

    Args:
        report: what was found.
        on_findings: ``fail``, ``warn`` or ``report``.
        speaks: whether this process is the one that shows it.

    Raises:
        LossAlignmentError: an error was found, and ``on_findings`` is ``fail``.
    """
    if on_findings == "report":
        if speaks:
            show(report, console_for("-"))  # standard output is the script's
        return
    if on_findings == "fail" and report.verdict == "fail":
        report.raise_for_findings()
    if report.findings or report.error:
        warnings.warn(report.in_short(), stacklevel=3)
