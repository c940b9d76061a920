"""Where the code of a model was imported from: trainers carry copies of packages that are installed too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["other_copies", "package_of", "told_origin"]

#: The folders that installers write into; where they lie is the environment's business.
INSTALLED = ("site-packages", "dist-packages")


def package_of(model: nn.Module) -> str:
    """The top-level package, or the module, that the model's class comes from."""
    return type(model).__module__.partition(".")[0]


def told_origin(package: str) -> str:
    """Where a package that has been imported lies, as people read it; empty where it has no file.

    Below the working directory as seen from there, below an environment without the environment's own path.
    """
    place = _place(package)
    return "" if place is None else _seen_from(place, os.getcwd())  # noqa: PTH109 - a path of it takes longer


@cache
def _seen_from(place: Path, working: str) -> str:
    for folder in place.parents:
        if folder.name in INSTALLED:
            return place.relative_to(folder.parent).as_posix()
    here = Path(working).resolve()
    return f"./{place.relative_to(here).as_posix()}" if here in place.parents else str(place)


def other_copies(package: str, folders: Iterable[Path]) -> list[str]:
    """Copies of a package that lie in ``folders``, and are not the one that was imported: a note each."""
    place = _place(package)
    found = dict.fromkeys((folder.resolve() / package) for folder in folders)
    return [
        f"{copy.parent} has a {package} of its own, and the model is that of {told_origin(package)}: to check the "
        f"copy, put its folder first, PYTHONPATH={copy.parent} loss-align ..."
        for copy in found
        if (copy / "__init__.py").is_file() and place is not None and copy != place
    ]


def _place(package: str) -> Path | None:
    """The folder of a package, or the file of a module."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return None if file is None else _home(file)


@cache
def _home(file: str) -> Path:
    """Each folder above a file is looked at on the disk, and what has been imported stays where it was."""
    path = Path(file).resolve()
    return path.parent if path.name == "__init__.py" else path
