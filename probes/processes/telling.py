"""What a run has to say, as it comes: on standard error, in the files that were asked for, and in one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import UsageError
from ..host.printable import capped, printable
from ..host.standard_output import standard_error
from ..records.report import EXIT, Check, Report
from ..records.verdict import verdict_line
from ..report.outputs import write_outputs
from .settings import Settings

__all__ = ["Telling", "listed"]

#: How the note of later steps begins; more of them than these are told by the first and the last.
AGAIN, LISTED = "looked again at step ", 6
#: The check of what other processes train.
TRAININGS = "trainings"


class Telling:
    """Tells every training of a run once, and makes one report of all.

    Attributes:
        report: that one; None before anything was told.
        broken: whether something of ours went wrong: the exit code is then 3.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.report: Report | None = None
        self.broken = False
        self._names: list[str] = []
        self._looks: list[str] = []

    def tell(self, report: Report, name: str = "", *, silently: bool = False) -> None:
        """Print a report, and write the files anew; ``name`` is of the program that trained, where it is not ours.

        ``silently`` where another rank does that for all.
        """
        if silently:
            self.report = report
            return
        self._print(report, name)
        self.report = report if self.report is None else _with(self.report, self._names[0], report, name)
        self._names.append(name)
        self.write()

    def again(self, report: Report, name: str, step: int) -> None:
        """Add what a later step shows and the steps before it have not; the files are written anew.

        ``name`` is of the program that trained, where it is not ours.
        """
        if self.report is None:
            return
        of = f"{name}, step {step}" if name and len(self._names) > 1 else f"step {step}"
        known = {(one.code, one.stream) for one in (*self.report.findings, *self.report.accepted)}
        fresh = [replace(one, message=f"{of}: {one.message}") for one in report.findings]
        fresh = [one for one in fresh if (one.code, one.stream) not in known]
        for one in fresh:
            _say(f"{one.message} ({one.code} {one.name}, {one.severity})")
        if report.error:
            _say(f"{of}: {report.error}")
        self.report.findings += fresh
        self._looks.append(f"{step}{' (not judged)' if report.error else ''}")
        self.report.notes = [note for note in self.report.notes if not note.startswith(AGAIN)]
        self.report.notes.append(f"{AGAIN}{listed(self._looks)}")
        self.write()

    def _print(self, report: Report, name: str) -> None:
        from ..report.annotations import annotate
        from ..report.terminal import console_for, show

        of = f"{name}: " if name and self._names else ""
        if report.error:
            _say(f"{of}{report.error}")
        elif not report.checks:
            for one in (*report.findings, *report.accepted):  # that nothing was read
                _say(f"{of}{one.message} ({one.code}: {report.verdict})")
        else:
            if of:
                _say(f"{name} trains as well:")
            show(report, console_for("-"), verbose=self._settings.verbose)  # standard output is the script's
            annotate(report, standard_error())

    def write(self) -> None:
        """Write the files."""
        try:
            if self.report is not None:
                write_outputs(self._settings.outputs, self.report)
        except (OSError, UsageError) as error:
            self.broken = True
            _say(str(error))

    def ended_with(self, code: int) -> None:
        """The program ended with a code: files that say why there is no report say that code."""
        report = self.report
        if report is not None and report.error and not self.broken and code not in {0, report.stopped}:
            report.stopped = code
            self.write()

    @property
    def code(self) -> int:
        """What the report makes of a program that itself ended well.

        That something was not looked at is said, and changes the code only of a run that was to end with ours.
        """
        if self.broken:
            return 3
        own = 0 if self.report is None else self.report.exit_code
        return 0 if own == EXIT["incomplete"] and not self._settings.stop else own


def _say(text: str) -> None:
    print(f"loss-align: {printable(capped(text))}", file=standard_error(), flush=True)


def listed(steps: Sequence[str]) -> str:
    """Numbers of steps, many by the first few and the last."""
    return ", ".join(steps if len(steps) <= LISTED else (*steps[: LISTED - 1], "...", steps[-1]))


#: How a check stands that tells another training's verdict; the worst last.
STANDS = {"pass": "pass", "incomplete": "skip", "error": "error", "fail": "fail"}


def _with(first: Report, first_name: str, other: Report, name: str) -> Report:
    """The report of one training, the first of which anything was read, with what was found in another."""
    if other.streams and not first.streams:
        first, first_name, other, name = other, name, first, first_name
    of = name or "the script"
    first.findings += [replace(one, message=f"{of}: {one.message}") for one in other.findings]
    first.accepted += [replace(one, message=f"{of}: {one.message}") for one in other.accepted]
    before = [check for check in first.checks if check.id == TRAININGS]
    status = max((STANDS[other.verdict], *(check.status for check in before)), key=list(STANDS.values()).index)
    told = [*(check.detail for check in before), f"{of}: {verdict_line(other)}"]
    first.checks = [check for check in first.checks if check.id != TRAININGS]
    first.checks.append(
        Check(TRAININGS, f"What is trained beside {first_name or 'the script'}", status, "; ".join(told))
    )
    return first
