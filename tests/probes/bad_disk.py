"""A disk that fills at every write: the limit is the system's own, in bytes, or one operation of a write is refused."""

import contextlib
import errno
import os
import resource
import tempfile
from pathlib import Path
from unittest import mock

from probes.errors import UsageError
from probes.host.files import write_text
from probes.records.report import Check, Report, error_report
from probes.report.outputs import FORMS, write_outputs

OLD = "as it was\n"
#: What a write asks of the system, by where it is asked.
OPERATIONS = {
    "a file beside it": (tempfile, "mkstemp"),
    "its stream": (os, "fdopen"),
    "its rights": (Path, "chmod"),
    "its place": (Path, "replace"),
}


@contextlib.contextmanager
def full_after(count):
    """No file grows beyond ``count`` bytes: the write that would is refused in the middle, by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def refused(operation):
    """One operation finds the disk full."""
    owner, name = OPERATIONS[operation]
    with mock.patch.object(owner, name, side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        yield


def told():
    """A report with something to say in every form."""
    checks = [Check(f"check-{n}", "A check", "pass", "x" * 50) for n in range(5)]
    return Report(checks=checks, notes=["ü" * 99], rows=list, environment={"model": "Tiny", "torch": "2"})


def wrong(work, path, trouble):
    """What ``work``, which writes to ``path``, leaves behind in trouble that it must not; empty if nothing."""
    path.write_text(OLD)
    beside = set(path.parent.iterdir())
    try:
        with trouble:
            work(str(path))
    except UsageError as error:
        if str(path) not in str(error) or not any(why in str(error) for why in ("File too large", "No space left")):
            return f"does not say which file, and why: {error}"
    except OSError as error:
        return f"ends in {error!r}"
    else:
        return "goes on as if it had been written"
    if set(path.parent.iterdir()) != beside:
        return f"leaves {sorted(one.name for one in set(path.parent.iterdir()) - beside)} behind"
    return "" if path.read_text() == OLD else "leaves half of a file"


def works():
    """Whatever writes a file: every form of a report, its error, and plain text (records, streams files)."""
    report = told()
    for form in FORMS:
        yield form, lambda path, form=form: write_outputs({form: path}, report)
        yield f"{form} of an error", lambda path, form=form: write_outputs({form: path}, error_report("planted", 3))
    yield "text", lambda path: write_text(path, "line\n" * 3000)


def days(runs, folder):
    """At most about ``runs`` of them, each its name and what was wrong: every writer, stopped at bytes all over it."""
    path = Path(folder) / "report"
    writers = list(works())
    each = max(1, runs // len(writers) - len(OPERATIONS))
    for name, work in writers:
        work(str(path))
        size = path.stat().st_size
        for operation in OPERATIONS:
            yield f"{name}, {operation} refused", wrong(work, path, refused(operation))
        for count in sorted({size * n // each for n in range(each)}):
            yield f"{name}, full after {count} of {size} bytes", wrong(work, path, full_after(count))
    path.unlink()
