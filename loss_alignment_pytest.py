"""The pytest plugin: check a loss in a test, and hold it against the baseline of last week.

pytest loads this module in every session of an environment, so it imports nothing but pytest: torch, ``alignment``
and ``probes`` wait until a test asks for the fixture. It is a top-level module of its own, because a folder called
``probes`` in a user's working directory would hide any that lies inside a package.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from probes.records.record import Record
    from probes.records.report import Report

__all__ = ["LossAlignment"]

#: The folder beside a test file that holds its baselines, one file each.
FOLDER = "loss_alignment_baselines"
UPDATES = ("create", "fix", "trim", "all")
#: The property that tells the reporting process, and the JUnit file, which baseline a test used.
USED = "loss_alignment_baseline"
WRITTEN = "loss_alignment_written"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--align-update``."""
    parser.getgroup("loss-alignment").addoption(
        "--align-update",
        choices=UPDATES,
        metavar="|".join(UPDATES),
        help="write baselines of loss alignment: create missing ones, fix those that differ, trim unused ones, or "
        "all; without it nothing is written, and never in CI",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the session's bookkeeping.

    Raises:
        UsageError: baselines are not written in CI.
    """
    config.addinivalue_line("markers", "loss_alignment: checks what a loss trains (select with -m loss_alignment)")
    if config.getoption("align_update") and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError("--align-update writes baselines, which CI never does: run it locally and commit them")
    if not hasattr(config, "workerinput"):  # one process reports: not the workers of pytest-xdist
        config.pluginmanager.register(_Baselines(config), "loss-alignment-baselines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for the fixture."""
    for item in items:
        if "loss_alignment" in getattr(item, "fixturenames", ()):
            item.add_marker("loss_alignment")


@pytest.fixture
def loss_alignment(request: pytest.FixtureRequest) -> LossAlignment:
    """Check what a loss trains: ``loss_alignment.check(model, batch, loss_fn)``, or against a baseline."""
    from loss_align import foreign_package

    problem = foreign_package()
    if problem is not None:
        pytest.fail(f"loss-alignment: {problem}", pytrace=False)
    return LossAlignment(request.node, request.config.getoption("align_update"))


@dataclass
class LossAlignment:
    """What the fixture gives to a test."""

    node: pytest.Item
    update: str | None
    used: list[Path] = field(default_factory=list)

    def check(self, model: Any, batch: Mapping[str, Any], loss_fn: Callable[..., Any], **options: Any) -> Report:
        """Check the loss, and fail the test with the report unless it passes.

        Args:
            model: as the loss calls it.
            batch: the model's keyword arguments, labels included.
            loss_fn: ``loss_fn(model, batch) -> scalar tensor``.
            options: of ``probes.check_loss``.
        """
        report = self._report(model, batch, loss_fn, options)
        if report.verdict != "pass":
            _fail(report)
        return report

    def check_data(self, batches: Any, **options: Any) -> Report:
        """Sweep a data set, and fail the test with the report unless it passes.

        Args:
            batches: whatever can be iterated: batches, rows or conversations.
            options: of ``probes.check_data``.
        """
        from probes import check_data

        report = self._made(lambda: check_data(batches, **options))
        if report.verdict != "pass":
            _fail(report)
        return report

    def check_against_baseline(
        self,
        model: Any,
        batch: Mapping[str, Any],
        loss_fn: Callable[..., Any],
        *,
        name: str = "",
        **options: Any,
    ) -> Report:
        """Check the loss, and fail the test where anything is worse than its baseline says.

        What the baseline knows of is not reported again; ``check`` reports it. ``name`` tells several baselines
        of one test apart.
        """
        report = self._report(model, batch, loss_fn, options)
        path = self._path(name)
        if path in self.used:
            pytest.fail(f"two calls share the baseline {path}: tell them apart with name=...", pytrace=False)
        self.used.append(path)
        self._tell(USED, path)
        if any(one.code == "LA501" for one in report.findings):
            _fail(report)  # nothing can be held against a loss that is no number
        problem = _told(lambda: self._compared(report, model, path))
        if problem:
            pytest.fail(problem, pytrace=False)
        return report

    def _compared(self, report: Report, model: Any, path: Path) -> None:
        """Hold the report against its baseline, or write that.

        Raises:
            UsageError: no baseline, or one that cannot be read or written.
        """
        from probes.errors import UsageError
        from probes.records.baseline import add_comparison, read_baseline
        from probes.records.provenance import provenance
        from probes.records.record import record_of_report

        command = f"pytest {self.node.nodeid!r} --align-update"
        new = record_of_report(report, provenance(model, report.environment, f"{command}=create"))
        if not path.exists() and self.update in ("create", "all"):
            self._write(path, new)
            return
        try:
            old = read_baseline(str(path), "preflight", f"{command}={'fix' if path.exists() else 'create'}")
            different = _differs(old, new)
        except UsageError:
            if not path.exists() or self.update not in ("fix", "all"):
                raise
            different = True  # it cannot be read: written anew
        if self.update in ("fix", "all"):
            if different:
                self._write(path, new)
            return
        known = len(report.findings)
        add_comparison(report, old, new, lambda _: True)
        if len(report.findings) > known:
            report.notes.append(f"if this change is meant: {command}=fix")
            _fail(report)

    def _write(self, path: Path, record: Record) -> None:
        from probes.errors import UsageError
        from probes.records.record import write_record

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot create {path.parent}: {error.strerror or error}") from error
        write_record(str(path), record)
        self._tell(WRITTEN, path)

    def _tell(self, key: str, path: Path) -> None:
        self.node.user_properties.append((key, os.path.relpath(path, self.node.config.rootpath)))

    def _report(
        self, model: Any, batch: Mapping[str, Any], loss_fn: Callable[..., Any], options: Mapping[str, Any]
    ) -> Report:
        from probes import check_loss

        return self._made(lambda: check_loss(model, batch, loss_fn, **options))

    def _made(self, work: Callable[[], Report]) -> Report:
        """The report, noted in the test's properties; the test fails where none could be made."""
        found: list[Report] = []
        problem = _told(lambda: found.append(work()))
        if problem:
            pytest.fail(f"loss-alignment: {problem}", pytrace=False)
        report = found[0]
        codes = ",".join(sorted({one.code for one in report.findings}))
        self.node.user_properties += [
            ("loss_alignment_verdict", report.verdict),
            ("loss_alignment_findings", codes),
        ]
        return report

    def _path(self, name: str) -> Path:
        inside = self.node.nodeid.partition("::")[2].replace("::", ".")  # its class too
        test = "--".join(part for part in (inside, name) if part)
        return _folder(self.node.path) / f"{_file_name(test)}.json"


def _folder(module: Path) -> Path:
    return module.parent / FOLDER / module.stem


def _file_name(test: str) -> str:
    """A test's name as a file's: what files cannot be called is written as its code."""
    return re.sub(r"[^\w.\[\]=,-]", lambda found: f"%{ord(found.group()):02x}", test)


def _told(work: Callable[[], None]) -> str:
    """Why the work could not be done, in one sentence; empty if it could."""
    from alignment.errors import InputError
    from probes.errors import CannotRunError, UsageError

    try:
        work()
    except (UsageError, InputError, CannotRunError) as error:
        return str(error)
    return ""


def _differs(old: Record, new: Record) -> bool:
    from probes.records.regression import compare

    comparison = compare(old, new)
    return any(comparison.of(kind) for kind in ("regression", "improvement", "neutral"))


def _fail(report: Report) -> None:
    """Fail with the report itself: a traceback would only show our own frames."""
    from probes.report.annotations import annotate
    from probes.report.terminal import as_text

    told = io.StringIO()
    annotate(report, told)
    pytest.fail(f"loss alignment\n{as_text(report)}{told.getvalue()}", pytrace=False)


@dataclass(eq=False)  # pluggy hashes plugins where folders have a conftest.py of their own
class _Baselines:
    """Names the baselines that were written, and reports, or on ``trim`` removes, those that no test uses."""

    config: pytest.Config
    used: set[Path] = field(default_factory=set)
    written: list[Path] = field(default_factory=list)
    ran: set[Path] = field(default_factory=set)
    unsure: set[Path] = field(default_factory=set)
    part: bool = False

    def pytest_deselected(self) -> None:
        """Note that the session runs a part of the tests only."""
        self.part = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test used; called in the process that collects what the workers report."""
        module = self.config.rootpath / report.location[0]
        paths = [(key, self.config.rootpath / str(value)) for key, value in report.user_properties]
        self.used |= {path for key, path in paths if key == USED}
        self.written += [path for key, path in paths if key == WRITTEN and report.when == "call"]
        self.ran.add(module)
        if report.outcome != "passed":
            self.unsure.add(module)  # the test may not have come to its baseline

    def unused(self) -> list[Path]:
        """Baselines that nothing used: of modules in which every test ran and passed, and of modules that are gone."""
        option = self.config.option
        chosen = [option.keyword, option.markexpr, option.deselect, getattr(option, "lf", False)]
        if self.part or any(chosen) or any("::" in str(arg) for arg in self.config.args):
            return []  # a part of the tests says nothing of the others
        folders = {_folder(module) for module in self.ran - self.unsure}
        for every in {_folder(module).parent for module in self.ran}:
            folders |= {gone for gone in every.glob("*") if not (every.parent / f"{gone.name}.py").exists()}
        return sorted({path for folder in folders for path in folder.glob("*.json")} - self.used)

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Name what was written and what is unused, or remove the latter."""
        unused = self.unused() if exitstatus == pytest.ExitCode.OK else []
        if unused or self.written:
            terminalreporter.section("loss alignment")
        for path in self.written:
            terminalreporter.line(f"written baseline: {path}")
        trim = self.config.getoption("align_update") in ("trim", "all")
        for path in unused:
            if trim:
                path.unlink()
                with contextlib.suppress(OSError):  # others are left in it
                    path.parent.rmdir()
            terminalreporter.line(f"{'removed' if trim else 'unused'} baseline: {path}")
        if unused and not trim:
            terminalreporter.line("no test uses them: remove them with --align-update=trim")
