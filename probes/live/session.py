"""One watched run: from the first import of torch to the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, ending
from ..host.printable import capped, printable
from ..records.choice import Choice
from ..records.report import EXIT, Report, error_report
from ..report.outputs import write_outputs
from .launch import Ended

if TYPE_CHECKING:
    from alignment.findings import Finding

    from ..models.declaration import Declaration
    from .company import Company
    from .watcher import Watcher

__all__ = ["Session", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How a run is watched and told.

    Attributes:
        steps: optimizer steps to watch.
        heads: names of head modules (``--head``).
        stop: end the run after them.
        outputs: path of every form of the report that is written.
        keep: which findings count.
        strict: raises warnings to errors.
        verbose: more detail, tracebacks of errors of ours.
        streams: the file that declares the model's streams (``--streams``).
        tokenizer: where that of the batches lies (``--tokenizer``).
        train_on: whose text is to be trained (``--train-on``).
    """

    steps: int
    heads: Sequence[str]
    stop: bool
    outputs: Mapping[str, str]
    keep: Choice
    strict: Callable[[Sequence[Finding]], list[Finding]]
    verbose: bool = False
    streams: str | None = None
    tokenizer: str | None = None
    train_on: str | None = None


class Session:
    """Watches one script, tells what its steps train as soon as they are done, and knows the exit code.

    Attributes:
        report: what was told; None before.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.report: Report | None = None
        self._watcher: Watcher | None = None
        self._company: Company | None = None
        self._process, self._environ = os.getpid(), dict(os.environ)
        self._own_error = self._over = False

    def begin(self) -> None:
        """Torch is there: watch."""
        try:
            from .company import Company
            from .watcher import Watcher

            self._company = Company(self._environ, self.settings.keep)
            streams = self._declared()
            self._watcher = Watcher(
                self.settings.steps, self.settings.heads, self._done, streams, several=self._company.several
            )
            self._watcher.start()
        except UsageError as error:
            self._tell(error_report(str(error), UsageError.exit_code))
        except Exception:  # noqa: BLE001 - the script is in the middle of importing torch
            self._tell(self._broken(traceback.format_exc()))

    def _declared(self) -> Sequence[Declaration]:
        """The streams of ``--streams``: read now, since a script must find torch unimported."""
        if self.settings.streams is None:
            return ()
        from ..models.streams_file import load_streams

        return load_streams(self.settings.streams)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no trace, whatever has ended the run."""
        if self._watcher is not None:
            self._watcher.remove()

    def end(self, ended: Ended) -> int:
        """The script has ended: tell what has not been told; the code to exit with."""
        if os.getpid() != self._process:
            return ended.code  # a child that the script has forked, and that came to the script's end
        self._over = True
        if self._watcher is None and self.report is None:
            self._tell(self._unread("the script never imported torch"))
        elif self._watcher is not None and self.report is None:
            from .watcher import ENDED

            self._watcher.finish(ENDED)
        report = self.report
        if report is not None and report.error and not self._own_error and ended.code not in {0, report.stopped}:
            report.stopped = ended.code
            self._write(report)
        return ended.code or self._code()

    def _code(self) -> int:
        """What the report makes of a script that itself ended well; the same on every rank.

        That something was not looked at is said, and changes the code only of a run that was to end with ours.
        """
        if self._own_error:
            return 3
        own = 0 if self.report is None else self.report.exit_code
        own = 0 if own == EXIT["incomplete"] and not self.settings.stop else own
        return own if self._company is None else self._company.agreed(own)

    # -- telling -------------------------------------------------------------------------------------

    def _done(self, watcher: Watcher) -> None:
        """The watched steps are over, or nothing more will be seen."""
        from ..host.preserve import same_random_state

        try:
            with same_random_state():
                report = self._judged(watcher)
                assert self._company is not None
                self.report = self._company.joined(report, watcher)
                if self._company.speaks:
                    self._tell(self.report)
        except Exception:  # noqa: BLE001 - the script must go on, whatever is wrong with us
            self._tell(self._broken(traceback.format_exc()))
        if self.settings.stop and not self._over:
            report = self.report
            raise SystemExit(3 if report is not None and report.error else self._code())

    def _judged(self, watcher: Watcher) -> Report:
        from ..batches.batch_source import template_at, tokenizer_beside
        from .judged import report_of_watched

        if watcher.failed:
            return self._broken(watcher.failed)
        try:
            template = template_at(self.settings.tokenizer, self.settings.train_on)
        except UsageError as error:
            return error_report(*ending(error))
        named = tokenizer_beside(self.settings.tokenizer)
        report = report_of_watched(watcher, template, self.settings.keep, named)
        report.findings = self.settings.strict(report.findings)
        return report

    def _unread(self, reason: str) -> Report:
        from .judged import unread

        return unread(reason, self.settings.keep)

    def _broken(self, trace: str) -> Report:
        """An exception of ours: the watcher is off, the script goes on."""
        self._own_error = True
        if self.settings.verbose:
            print(trace, file=sys.stderr)
        last = trace.strip().splitlines()[-1]
        return error_report(f"watching stopped by an error of its own ({last}): run again with -v", 3)

    def _tell(self, report: Report) -> None:
        from ..report.annotations import annotate
        from ..report.terminal import console_for, show

        self.report = report
        if report.error:
            print(f"loss-align: {printable(capped(report.error))}", file=sys.stderr, flush=True)
        elif not report.checks:
            for one in (*report.findings, *report.accepted):  # that nothing was read
                told = f"{one.message} ({one.code}: {report.verdict})"
                print(f"loss-align: {printable(capped(told))}", file=sys.stderr, flush=True)
        else:
            show(report, console_for("-"), verbose=self.settings.verbose)  # standard output is the script's
            annotate(report, sys.stderr)
        self._write(report)

    def _write(self, report: Report) -> None:
        try:
            write_outputs(self.settings.outputs, report)
        except (OSError, UsageError) as error:
            self._own_error = True
            print(f"loss-align: {printable(capped(str(error)))}", file=sys.stderr, flush=True)
