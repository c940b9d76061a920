"""Python processes below this one that load torch, and that cannot be followed. Seen on Linux alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["Unfollowed", "isolated"]

PROCESSES = Path("/proc")
#: Options of python that take a word of their own, and those behind which the program begins.
VALUED, LAST = "XW", "cm"
#: Those that leave out PYTHONPATH, or the ``site`` module.
ISOLATING = "IES"


class Unfollowed:
    """Looks at the processes that one has started, as often as it is asked to.

    Args:
        folder: that stands in front of the PYTHONPATH of those that are followed.

    Attributes:
        found: why each was not, by the name of its program.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder).encode()
        self.found: dict[str, str] = {}

    def look(self, process: int) -> None:
        """See what a process and all below it do just now."""
        for one in _below(process):
            with suppress(OSError):  # it has ended, or is somebody else's
                self._look_at(PROCESSES / str(one))

    def _look_at(self, place: Path) -> None:
        if not (place / "exe").readlink().name.startswith("python"):
            return
        words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        path = next((v for v in (place / "environ").read_bytes().split(b"\0") if v.startswith(b"PYTHONPATH=")), b"")
        option = isolated(words[1:])
        if (option or self._folder not in path) and b"libtorch" in (place / "maps").read_bytes():
            why = f"it was started as python {option}" if option else "it was started without the run's PYTHONPATH"
            self.found[program(words[1:])] = why


def isolated(words: list[str]) -> str:
    """The option of a python command line that keeps ours from its path; empty if there is none."""
    for option in _options(words):
        if not option.startswith("--") and any(letter in ISOLATING for letter in option.partition("X")[0]):
            return option
    return ""


def program(words: list[str]) -> str:
    """What a python command line runs."""
    rest = words[len(list(_options(words))) :]
    return Path(rest[0]).name if rest else "python"


def _options(words: list[str]) -> Iterator[str]:
    """The words before the program, those that belong to an option with it."""
    expected = False
    for word in words:
        if expected:
            expected = False
        elif not word.startswith("-") or word == "-":
            return
        elif word[-1] in VALUED and not word.startswith("--"):
            expected = True
        yield word
        if word[-1] in LAST and not word.startswith("--"):
            return


def _below(process: int) -> Iterator[int]:
    """A process, and those that it and its children have started."""
    yield process
    try:
        told = [path.read_text(encoding="ascii") for path in (PROCESSES / str(process) / "task").glob("*/children")]
    except OSError:
        return
    for child in " ".join(told).split():
        yield from _below(int(child))
