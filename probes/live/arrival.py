"""Waiting for a module: a script may set its environment before it imports torch, and must find it unimported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["when_imported"]


@contextmanager
def when_imported(name: str, then: Callable[[], None]) -> Iterator[None]:
    """Call ``then`` as soon as ``name`` has been imported, if that happens within the block; at once if it was."""
    if name in sys.modules:
        then()
        yield
        return
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.leave()


class _Finder(MetaPathFinder):
    """Finds one module as everyone else would, and lends it a loader that tells when it is there."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then, self.searching = name, then, False

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec; its loader is lent one around it."""
        if fullname != self.name or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """A loader around the module's own, which it puts back once it has done its work."""

    def __init__(self, own: Any, finder: _Finder) -> None:
        self.own, self.finder = own, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        module.__loader__ = self.own
        self.own.exec_module(module)
        self.finder.leave()
        self.finder.then()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)  # what else is asked of a loader (resources, source) that nobody has run yet
