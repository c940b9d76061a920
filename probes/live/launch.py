"""Running a script as ``python SCRIPT`` would: its own ``__main__``, ``sys.argv``, ``sys.path`` and exit code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from ..errors import UsageError
from ..host.import_path import first_on_path
from ..host.standard_output import standard_error

__all__ = ["Ended", "Program", "foreign_names", "module_program", "run_program", "script_program"]


HERE = Path(__file__).parents[1]
#: Names that are taken in a process of ours.
OURS = ("alignment", "probes")


@dataclass(frozen=True)
class Program:
    """What ``python`` would run as ``__main__``.

    Attributes:
        code: compiled.
        argv: ``sys.argv`` as it finds it.
        folder: what goes first on ``sys.path``.
        attributes: of its ``__main__`` module.
    """

    code: CodeType
    argv: tuple[str, ...]
    folder: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, and whether it was interrupted from the keyboard."""

    code: int
    interrupted: bool = False


def script_program(path: str, arguments: Sequence[str]) -> Program:
    """The program of ``python PATH ARGUMENTS``.

    Raises:
        UsageError: the file cannot be read.
        SyntaxError: it is no Python; as ``python`` would raise it.
    """
    absolute = str(Path(path).absolute())
    try:
        with io.open_code(absolute) as stream:
            source = stream.read()
    except OSError as error:
        command = shutil.which(path) if os.sep not in path else None
        then = f"a command is run as loss-align run -- {path} ..." if command else "name a Python file"
        raise UsageError(f"cannot open the script {path}: {error.strerror or error}; {then}") from error
    loader = importlib.machinery.SourceFileLoader("__main__", absolute)
    attributes = {"__file__": absolute, "__cached__": None, "__loader__": loader, "__package__": None, "__spec__": None}
    folder = str(Path(path).resolve().parent)
    return Program(loader.source_to_code(source, absolute), (path, *arguments), folder, attributes)


def module_program(name: str, arguments: Sequence[str]) -> Program:
    """The program of ``python -m NAME ARGUMENTS``.

    Raises:
        UsageError: no such module, or none that can be run.
    """
    folder = str(Path.cwd())
    with first_on_path(folder):
        spec = _spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = _spec(f"{name}.__main__")
    loader = None if spec is None else spec.loader
    code = loader.get_code(spec.name) if spec is not None and hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise UsageError(f"no module {name!r} that can be run: name it as after python -m, or give a script's path")
    attributes = {
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__loader__": loader,
        "__package__": spec.parent,
        "__spec__": spec,
    }
    return Program(code, (str(spec.origin), *arguments), folder, attributes)


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def foreign_names(program: Program) -> list[str]:
    """Packages beside the program whose names are those of our own: it would be given ours."""
    found = []
    for name in OURS:
        spec = importlib.machinery.PathFinder.find_spec(name, [program.folder])
        own = importlib.util.find_spec(name)
        if spec is not None and own is not None and spec.origin != own.origin:
            found.append(name)
    return found


def run_program(program: Program) -> Ended:
    """Run it to its end, in this process, as ``__main__``; what it leaves (``__main__``, the path) stays.

    An exception of its own is shown as ``python`` would show it, without a frame of ours.
    """
    main = ModuleType("__main__")
    main.__dict__.update(program.attributes)
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    sys.argv[:] = program.argv
    if not getattr(sys.flags, "safe_path", False):
        # python puts a program's folder in the place where it has put that of loss-align
        sys.path[:1] = [program.folder]
    return _executed(program.code, main.__dict__)


def _executed(code: CodeType, namespace: dict[str, Any]) -> Ended:
    try:
        exec(code, namespace)  # noqa: S102 - what this module is for
    except SystemExit as error:
        return Ended(_exit_code(error))
    except BaseException as error:  # noqa: BLE001 - whatever ends a program
        _without_ours(error)
        sys.excepthook(type(error), error, error.__traceback__)
        return Ended(1, interrupted=type(error) is KeyboardInterrupt)
    return Ended(0)


def _without_ours(error: BaseException | None) -> None:
    """Take our frames out of the tracebacks of an exception and of those that it came from."""
    known = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        error.__traceback__ = _own_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package."""
    frames = []
    while trace is not None:
        if not Path(trace.tb_frame.f_code.co_filename).is_relative_to(HERE):
            frames.append(trace)
        trace = trace.tb_next
    for frame in reversed(frames):
        trace = TracebackType(trace, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return trace


def _exit_code(error: SystemExit) -> int:
    """What the process would exit with; a text goes to standard error, as ``sys.exit`` writes it."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF if os.name == "posix" else error.code
    print(error.code, file=standard_error())
    return 1
