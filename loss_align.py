"""The command's front door: makes sure that the packages behind it are ours, then hands over.

``alignment`` and ``probes`` are generic names. Where another package of that name comes first on the
path, one clear error names it (exit code 3) instead of whatever its code would raise.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from typing import Any

__all__ = ["command", "foreign_package", "load_ipython_extension", "main", "other_owners"]

DISTRIBUTION = "loss-alignment"
PACKAGES = ("alignment", "probes")
#: Seconds that threads which a loss has left behind have to end by themselves.
PATIENCE = 3.0


def foreign_package() -> str | None:
    """Which package is not ours, and where it lies; None if all is well."""
    for name in PACKAGES:
        try:
            package = importlib.import_module(name)
        except ImportError as error:
            return f"package {name!r} cannot be imported ({error}): reinstall {DISTRIBUTION}"
        if getattr(package, "__distribution__", None) != DISTRIBUTION:
            where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", ["?"])))
            return (
                f"package {name!r} was imported from {where}, which does not belong to {DISTRIBUTION}: "
                f"{_what_to_do(other_owners().get(name, []))}"
            )
    return None


def other_owners() -> dict[str, list[str]]:
    """Distributions that have a package of one of our names too, by that name.

    No wheel can refuse to be installed beside them, and no installer asks: the later one writes over the earlier.
    """
    from importlib import metadata

    found: dict[str, list[str]] = {}
    for one in metadata.distributions():
        record = f"\n{one.read_text('RECORD') or ''}"
        for name in PACKAGES:
            if f"\n{name}/__init__.py," in record and one.metadata["Name"] != DISTRIBUTION:
                found.setdefault(name, []).append(one.metadata["Name"])
    return found


def _what_to_do(owners: list[str]) -> str:
    if not owners:
        return "rename that folder, or run from elsewhere"
    return (
        f"{' and '.join(owners)} has written over it. The two cannot share an environment: pip uninstall one of them, "
        f"then pip install --force-reinstall --no-deps the other"
    )


def main(argv: list[str] | None = None) -> int:
    """Run ``loss-align``; returns its exit code."""
    problem = foreign_package()
    if problem is not None:
        print(f"loss-align: {problem}", file=sys.stderr)
        return 3
    from probes.commands.cli import run

    return run(sys.argv[1:] if argv is None else argv)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext loss_align`` in a notebook: the magics ``%loss_align`` and ``%%loss_align``.

    Raises:
        ImportError: a package of another project stands where ours should.
    """
    if problem := foreign_package():
        raise ImportError(f"loss-align: {problem}")
    from probes.commands.magics import add_magics

    add_magics(shell)


def command() -> int:
    """What ``loss-align`` starts: ``main``, and an end also where a loss has started threads that have none.

    A script that is run keeps its threads, as under ``python``.
    """
    if sys.argv[1:2] == ["run"]:
        _tell_other_owners()
        return main()
    signal.signal(signal.SIGTERM, _ended)
    try:
        _tell_other_owners()
        code = main()
        _answer_no_more()
    except KeyboardInterrupt as error:  # before or after the command could answer by itself
        _answer_no_more()
        from probes.commands.cli import fail

        code = fail(error, sys.argv[1:])
    threading.Thread(target=_leave, args=(code,), daemon=True).start()
    return code


def _tell_other_owners() -> None:
    for name, owners in other_owners().items():
        told = (
            f"warning: {' and '.join(owners)} has a package {name!r} too, and the later one has written over the other"
        )
        print(f"loss-align: {told}: give each an environment of its own", file=sys.stderr)


def _answer_no_more() -> None:
    """The report is written, and its exit code stands."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _ended(*_: object) -> None:
    raise KeyboardInterrupt("ended by SIGTERM")


def _leave(code: int) -> None:
    """End the process although threads still run, and say so."""
    time.sleep(PATIENCE)
    left = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if left:
        told = f"{left[0]} and {len(left) - 1} more" if len(left) > 1 else left[0]
        print(f"loss-align: not waited for: thread {told}, which the loss or model has started", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(command())
