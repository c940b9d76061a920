"""The files a run can be asked for: checked before the work, written after it, written with the error otherwise.

A form of the report is its option and the module of ``probes.report`` whose ``render(report)`` makes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.files import as_json, check_writable, same_file, write_text
from ..host.place import ALONE, environment_place
from ..records.report import Report, error_report

__all__ = ["FORMS", "asked_for", "checked_outputs", "standard_output", "write_error", "write_outputs"]

#: What ``--FORM FILE`` writes.
FORMS: Mapping[str, str] = {
    "json": "write the report as JSON",
    "junit": "write the report as JUnit XML, for CI",
    "markdown": "write the report as Markdown, for a CI job summary",
    "html": "write the report as one HTML file that shows every row",
    "sarif": "write the report as SARIF 2.1.0, for code scanning",
}


def checked_outputs(args: argparse.Namespace) -> dict[str, str]:
    """The path of every form that was asked for, from the root: a loss may change the working directory.

    Reports of an earlier run that stand there say ``error`` from now on: whatever ends this run, they are not its own.

    Raises:
        UsageError: a path that cannot be written, that two forms share, or that is the baseline's.
    """
    paths = {form: path for form in FORMS if (path := getattr(args, form, None)) is not None}
    baseline = getattr(args, "baseline", None)
    inputs = {} if baseline is None else {"baseline": baseline}
    for form, path in paths.items():
        check_writable(path)
        taken = {**inputs, **paths}
        first = next(other for other, path_of in taken.items() if same_file(path_of, path))
        if first in inputs:
            raise UsageError(f"--{form} would write over --{first} {path}: name another file")
        if first != form:
            raise UsageError(f"--{first} and --{form} both write {path}: name two files")
    paths = {form: path if path == "-" else str(Path(path).absolute()) for form, path in paths.items()}
    if (environment_place() or ALONE).rank == 0:
        standing = {form: path for form, path in paths.items() if path != "-" and Path(path).is_file()}
        write_outputs(standing, error_report("the run that writes this file has not come to its end", 3))
    return paths


def standard_output(paths: Mapping[str, str]) -> str | None:
    """``-`` if any form goes to standard output, which then holds nothing else."""
    return "-" if "-" in paths.values() else None


def write_outputs(paths: Mapping[str, str], report: Report, told: Mapping[str, Any] | None = None) -> None:
    """Write every form; ``told`` is what the JSON says where it is not the report itself."""
    for form, path in paths.items():
        write_text(path, as_json(told or report.as_dict()) if form == "json" else _rendered(form, report))


def write_error(argv: Sequence[str], message: str, exit_code: int) -> str:
    """Write the error into every file that was asked for; returns what kept that from being done."""
    report = error_report(message, exit_code)
    forms = {path: form for form, path in reversed(asked_for(argv).items())}  # a path that two share is written once
    problems = [_kept_from(form, path, report) for path, form in forms.items()]
    return "; ".join(problem for problem in problems if problem not in message)


def _kept_from(form: str, path: str, report: Report) -> str:
    """Write one form; what kept it from being written, empty if nothing did."""
    try:
        write_outputs({form: path}, report)
    except UsageError as error:
        return str(error)
    return ""


def asked_for(argv: Sequence[str]) -> dict[str, str]:
    """The path of every form as it stands on the command line, also where that did not parse."""
    paths = {}
    for word, following in zip_longest(argv, argv[1:], fillvalue="--"):
        option, equals, value = word.removeprefix("--").partition("=")
        path = value if equals else following
        if word.startswith("--") and option in FORMS and not path.startswith("--"):
            paths[option] = path
    return paths


def _rendered(form: str, report: Report) -> str:
    return import_module(f".{form}", __package__).render(report)
