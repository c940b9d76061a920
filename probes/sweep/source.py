"""Where samples come from: a file, read line by line, or anything that can be iterated; some of it, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.files import check_regular
from ..roles.forms import parsed

__all__ = ["FileSource", "Source", "as_source", "drawn"]

#: An item, and what it is called.
Item = tuple[Any, str]


@dataclass(frozen=True)
class FileSource:
    """A file of JSON lines, of which no more than a line is held; an array is read whole.

    Attributes:
        path: of the file.
        chosen: numbers of the samples to read, from 0; None for all.
    """

    path: Path
    chosen: frozenset[int] | None = None

    def __len__(self) -> int:
        return sum(1 for _ in self.lines()) if self.chosen is None else len(self.chosen)

    def lines(self) -> Iterator[tuple[str | Any, str]]:
        """Every sample: a line that is not parsed yet, or an entry of the array, and what it is called.

        Raises:
            UsageError: a file that cannot be read, or an array that is none.
        """
        for number, item in enumerate(self._every()):
            if self.chosen is None or number in self.chosen:
                yield item

    def _every(self) -> Iterator[tuple[str | Any, str]]:
        check_regular(self.path)
        try:
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                first = file.read(1)
                while first.isspace():
                    first = file.read(1)
                file.seek(0)
                if first == "[":
                    yield from self._array(file.read())
                    return
                for number, line in enumerate(file, start=1):
                    if not line.isspace():
                        yield line, f"{self.path}, line {number}"
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _array(self, text: str) -> Iterator[tuple[Any, str]]:
        found = parsed(text, str(self.path))
        for number, sample in enumerate(found, start=1):
            yield sample, f"{self.path}, sample {number}"


#: What a sweep goes through.
Source = FileSource | Iterable[Any]


@dataclass(frozen=True)
class _Rows:
    """A data set that is read by number alone, as torch's are."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.rows[number]

    def __iter__(self) -> Iterator[Any]:
        return (self.rows[number] for number in range(len(self.rows)))


def as_source(found: Any, what: str) -> Source:
    """Whatever can be gone through: an iterable, or rows by their number.

    Raises:
        UsageError: it is neither; ``what`` says where it came from.
    """
    if hasattr(found, "__len__") and hasattr(found, "__getitem__") and not hasattr(found, "__iter__"):
        return _Rows(found)
    if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
        raise UsageError(f"{what} a {type(found).__name__}")
    return found


def drawn(source: Source, count: int, seed: int) -> Source:
    """``count`` samples of a source, the same for the same seed; all where it has no more.

    What has no length is gone through, and no more than ``count`` items of it are held.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    if isinstance(source, FileSource):
        total = len(source)
        return FileSource(source.path, frozenset(draw.sample(range(total), min(count, total))))
    size: Callable[[], int] | None = getattr(source, "__len__", None)
    get = getattr(source, "__getitem__", None)
    if size is not None and get is not None:
        return [get(number) for number in sorted(draw.sample(range(size()), min(count, size())))]
    kept: list[Any] = []
    for number, item in enumerate(source):
        at = number if number < count else draw.randrange(number + 1)
        if number < count:
            kept.append(item)
        elif at < count:
            kept[at] = item
    return kept
