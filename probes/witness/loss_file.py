"""Load functions of the user's own, the loss above all: ``FILE.py:FUNC`` or ``package.module:FUNC``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UsageError, raised_by
from ..host.import_path import first_on_path
from .guarded import guarded

__all__ = ["load_function", "load_loss"]

#: Says of a module that was loaded here which file it was, and in which state.
STAMP = "__loss_align_stamp__"


def load_loss(spec: str) -> Any:
    """The loss that ``spec`` names.

    Raises:
        UsageError: no such file, module or function, or the module raises on import.
    """
    return load_function(spec, "--loss", "trainer.py:loss")


def load_function(spec: str, option: str, example: str) -> Any:
    """The function that ``spec`` names; a module is looked for in the working directory first, as by ``python -m``.

    Raises:
        UsageError: no such file, module or function, or the module raises on import.
    """
    where, separator, name = spec.rpartition(":")
    if not separator or not where or not name:
        raise UsageError(f"{option} {spec!r} must be FILE.py:FUNC or package.module:FUNC, as in {example}")
    module = _from_file(where, option) if where.endswith(".py") or "/" in where else _from_module(where, name, option)
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, [n for n in vars(module) if callable(vars(module)[n])], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{option}: {where} has no function {name!r}{hint}")
    if not callable(found):
        raise UsageError(f"{option}: {name!r} in {where} is {type(found).__name__}, not a function")
    return guarded(found, f"{option} {spec}")


def _from_file(where: str, option: str) -> ModuleType:
    path = Path(where)
    if not path.is_file():
        raise UsageError(f"{option}: no such file: {where}")
    spec = importlib.util.spec_from_file_location(f"_loss_align_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{option}: {where} is no Python file")
    stamp = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    if spec.name in sys.modules and getattr(sys.modules[spec.name], STAMP, None) == stamp:
        return sys.modules[spec.name]  # model, batch and loss of one file are one module
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with first_on_path(str(path.parent.resolve())):  # a trainer imports its neighbours
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise raised_by(f"{option}: importing {where}", error) from error
    setattr(module, STAMP, stamp)
    return module


def _from_module(where: str, name: str, option: str) -> ModuleType:
    try:
        with first_on_path(str(Path.cwd())):  # as python -m does: a console script has the folder of its own file there
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or error.name != where.partition(".")[0]:
            raise raised_by(f"{option}: importing {where}", error) from error
        raise UsageError(
            f"{option}: no module {error.name} is installed or lies in the working directory; "
            f"a file is named by its path, as in {where.replace('.', '/')}.py:{name}"
        ) from error
    except (Exception, SystemExit) as error:
        raise raised_by(f"{option}: importing {where}", error) from error
