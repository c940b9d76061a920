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
    from probes.record import Record
    from probes.report.model import Report

__all__ = ["LossAlignment"]

#: The folder beside a test file that holds its baselines, one file each.
FOLDER = "loss_alignment_baselines"
UPDATES = ("create", "fix", "trim", "all")
#: The property that tells the reporting process, and the JUnit file, which baseline a test used.
USED = "loss_alignment_baseline"
WIDTH = 100


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
        config.pluginmanager.register(_Unused(config), "loss-alignment-unused")


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
        from probes.baseline import add_comparison
        from probes.errors import UsageError
        from probes.provenance import provenance
        from probes.record import read_record, record_of_report, write_record

        report = self._report(model, batch, loss_fn, options)
        path, command = self._path(name), f"pytest {self.node.nodeid!r} --align-update"
        self.node.user_properties.append((USED, os.path.relpath(path, self.node.config.rootpath)))
        new = record_of_report(report, provenance(model, report.environment, f"{command}=create"))
        if not path.exists() and self.update not in ("create", "all"):
            pytest.fail(f"no baseline {path}: create it with: {command}=create", pytrace=False)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_record(str(path), new)
            return report
        try:
            old = read_record(str(path))
        except UsageError as error:
            pytest.fail(f"{error}; write it again with: {command}=fix", pytrace=False)
        if self.update in ("fix", "all"):
            if _differs(old, new):
                write_record(str(path), new)
            return report
        known = len(report.findings)
        add_comparison(report, old, new, lambda _: True)
        if len(report.findings) > known:
            report.notes.append(f"if this change is meant: {command}=fix")
            _fail(report)
        return report

    def _report(
        self, model: Any, batch: Mapping[str, Any], loss_fn: Callable[..., Any], options: Mapping[str, Any]
    ) -> Report:
        from alignment.errors import InputError
        from probes import check_loss
        from probes.errors import CannotRunError, UsageError

        try:
            report = check_loss(model, batch, loss_fn, **options)
        except (UsageError, InputError, CannotRunError) as error:
            pytest.fail(f"loss-alignment: {error}", pytrace=False)
        codes = ",".join(sorted({one.code for one in report.findings}))
        self.node.user_properties += [
            ("loss_alignment_verdict", report.verdict),
            ("loss_alignment_findings", codes),
        ]
        return report

    def _path(self, name: str) -> Path:
        test = "--".join(part for part in (self.node.name, name) if part)
        return _folder(self.node.path) / f"{_file_name(test)}.json"


def _folder(module: Path) -> Path:
    return module.parent / FOLDER / module.stem


def _file_name(test: str) -> str:
    """A test's name as a file's: what files cannot be called is written as its code."""
    return re.sub(r"[^\w.\[\]=,-]", lambda found: f"%{ord(found.group()):02x}", test)


def _differs(old: Record, new: Record) -> bool:
    from probes.regression import compare

    comparison = compare(old, new)
    return any(comparison.of(kind) for kind in ("regression", "improvement", "neutral"))


def _fail(report: Report) -> None:
    """Fail with the report itself: a traceback would only show our own frames."""
    from rich.console import Console

    from probes.report.terminal import show

    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)
    show(report, console)
    pytest.fail(f"loss alignment\n{console.file.getvalue()}", pytrace=False)  # type: ignore[attr-defined]


@dataclass
class _Unused:
    """Reports, and on ``--align-update=trim`` removes, baselines that no test uses any longer."""

    config: pytest.Config
    used: set[Path] = field(default_factory=set)
    ran: set[Path] = field(default_factory=set)
    unsure: set[Path] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test used; called in the process that collects what the workers report."""
        module = self.config.rootpath / report.location[0]
        self.used |= {self.config.rootpath / str(value) for key, value in report.user_properties if key == USED}
        self.ran.add(module)
        if report.outcome != "passed":
            self.unsure.add(module)  # the test may not have come to its baseline

    def unused(self) -> list[Path]:
        """Baselines that nothing used: of modules in which every test ran and passed, and of modules that are gone."""
        option = self.config.option
        if any("::" in str(arg) for arg in self.config.args) or option.keyword or option.markexpr:
            return []  # a part of the tests says nothing of the others
        folders = {_folder(module) for module in self.ran - self.unsure}
        for every in {_folder(module).parent for module in self.ran}:
            folders |= {gone for gone in every.glob("*") if not (every.parent / f"{gone.name}.py").exists()}
        return sorted({path for folder in folders for path in folder.glob("*.json")} - self.used)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name unused baselines, or remove them."""
        unused = self.unused()
        if not unused:
            return
        trim = self.config.getoption("align_update") in ("trim", "all")
        terminalreporter.section("loss alignment")
        for path in unused:
            if trim:
                path.unlink()
                with contextlib.suppress(OSError):  # others are left in it
                    path.parent.rmdir()
            terminalreporter.line(f"{'removed' if trim else 'unused'} baseline: {path}")
        if not trim:
            terminalreporter.line("no test uses them: remove them with --align-update=trim")
