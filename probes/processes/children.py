"""The folder by which Python processes that a run starts are followed, and where those hand in what they have seen.

It stands in front of PYTHONPATH while the run lasts, holds a ``sitecustomize`` (``at_start``), and goes with the run;
what a killed run has left, the next one takes away. Nothing is written anywhere else.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from .family import Family
from .handed import Handed
from .settings import Settings

try:
    import fcntl
except ImportError:  # no POSIX: nothing is swept there
    fcntl = None

__all__ = ["Children"]

#: Runs first in every Python process that is followed; copied, and never imported here.
AT_START = Path(__file__).with_name("at_start.py")
PREFIX = "loss-align-run-"
#: Seconds that ranks have to hand in when the run has ended, and between two looks.
GRACE, PAUSE = 5.0, 0.05
#: Held by the run while it lasts.
LOCK = "running"
#: Ends of the names of what lies in the folder: a process that watches, its word, and why one cannot watch.
BEGUN, WORD, UNWATCHED = ".begun", ".word", ".unwatched"


class Children:
    """The processes that a run starts.

    Attributes:
        folder: where they hand in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._heard: set[str] = set()

    @classmethod
    @contextmanager
    def followed(cls, settings: Settings, *, taken: bool = False) -> Iterator[Children]:
        """Make the folder, by which processes find ``settings``, and take it away in the end.

        ``taken`` where the place that a launcher has made is this process's own, and not that of what it starts.

        Raises:
            OSError: it cannot be made.
        """
        sweep()
        children = cls(Path(tempfile.mkdtemp(prefix=PREFIX)).resolve())
        owner, lock = os.getpid(), _locked(children.folder / LOCK)
        try:
            shutil.copyfile(AT_START, children.folder / "sitecustomize.py")
            ours = {name: spec.origin for name in ("probes", "alignment") if (spec := find_spec(name)) is not None}
            (children.folder / "ours.json").write_text(json.dumps(ours), encoding="utf-8")
            given = (settings, taken)
            (children.folder / "settings").write_bytes(pickle.dumps(given))
            yield children
        finally:
            if os.getpid() == owner:  # and no child that the script has forked
                children.remove()
                if lock is not None:
                    os.close(lock)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment whose Python processes are followed."""
        path = environ["PYTHONPATH"].split(os.pathsep) if environ.get("PYTHONPATH") else []
        ours = str(self.folder)
        return {**environ, "PYTHONPATH": os.pathsep.join([ours, *(one for one in path if one != ours)])}

    @contextmanager
    def in_environment(self, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
        """The same for what this process starts meanwhile; what it has made of the variable itself stays."""
        before, ours = environ.get("PYTHONPATH"), self.environment(environ)["PYTHONPATH"]
        environ["PYTHONPATH"] = ours
        try:
            yield
        finally:
            if environ.get("PYTHONPATH") == ours:
                del environ["PYTHONPATH"]
                if before is not None:
                    environ["PYTHONPATH"] = before

    def news(self) -> list[Handed]:
        """What was handed in since the last call, in the order of time."""
        fresh = sorted(path for path in self.folder.glob(f"*{WORD}") if path.name not in self._heard)
        self._heard.update(path.name for path in fresh)
        return [pickle.loads(path.read_bytes()) for path in fresh]  # noqa: S301 - our own, in a folder of our own

    def silent(self) -> list[str]:
        """Names of processes that began to watch and have not said a word."""
        names = []
        for path in self.folder.glob(f"*{BEGUN}"):
            with suppress(FileNotFoundError):  # it has just told
                names.append(path.read_text(encoding="utf-8"))
        return sorted(names)

    def unwatched(self) -> dict[str, str]:
        """Why processes could not be watched, by the name of what they run."""
        told = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob(f"*{UNWATCHED}")]
        return {one["name"]: one["why"] for one in told}

    def last_words(self, family: Family) -> None:
        """Put in what has been handed in; a launcher may end a moment before its last rank does."""
        family.add(self.news())
        deadline = time.monotonic() + GRACE
        while family.waits and self._talking() and time.monotonic() < deadline:
            time.sleep(PAUSE)
            family.add(self.news())

    def _talking(self) -> bool:
        """Whether a process that has begun to watch is still there."""
        return any(_lives(int(path.stem)) for path in self.folder.glob(f"*{BEGUN}"))

    # -- in a process that was started -------------------------------------------------------------

    def settings(self) -> tuple[Settings, bool]:
        """How the run is watched, and whether a launcher's place is taken."""
        return pickle.loads((self.folder / "settings").read_bytes())  # noqa: S301 - as above

    def begun(self, name: str) -> None:
        """This process begins to watch; nothing is done where the run has ended before it."""
        with suppress(OSError):
            (self.folder / f"{os.getpid()}{BEGUN}").write_text(name, encoding="utf-8")

    def hand_in(self, word: Handed) -> None:
        """This process has seen enough; nothing is done where the run has ended before it."""
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}{WORD}"
        with suppress(OSError):
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps(word))
            part.replace(path)
            (self.folder / f"{os.getpid()}{BEGUN}").unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sweep() -> None:
    """Take away the folders of runs that were killed: those whose lock nobody holds."""
    if fcntl is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(path: Path) -> int | None:
    """Make a file and hold its lock, as long as this process lives."""
    if fcntl is None:
        return None
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock
