"""One process that is watched: from the first import of torch to its end, and so are those forked from it."""

from __future__ import annotations

import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from ..errors import UsageError, ending
from ..host.place import ALONE, Place, environment_place
from ..host.standard_output import standard_error
from ..records.portable import portable
from ..records.report import Report, error_report, unread_report
from .handed import Handed
from .settings import Settings

if TYPE_CHECKING:
    from ..live.boundaries import Boundaries
    from ..live.later import Later
    from ..live.watcher import Watcher
    from ..models.declaration import Declaration
    from .children import Children

__all__ = ["WatchedProcess"]


class WatchedProcess(ABC):
    """Watches this process, and hands over one report of what its steps train as soon as they are done.

    A process that is forked from it is watched from there on, for itself, and hands in by the folder of the run.

    Args:
        settings: how it is watched.
        children: the folder; None if there is none.
        launched: where a launcher has put it.
    """

    def __init__(self, settings: Settings, children: Children | None, launched: Place | None = None) -> None:
        self.settings = settings
        self._children = children
        self._launched = _launched() if launched is None else launched
        self._grouped: Place | None = None
        self._watcher: Watcher | None = None
        self._streams: Sequence[Declaration] = ()
        self._later: Later | None = None
        self._process = os.getpid()
        self._told = self._over = False

    def begin(self) -> None:
        """Torch is there: watch."""
        with self._telling_what_breaks():  # the script is in the middle of importing torch
            self._streams = self._declared()
            self._watch()
            _in_forks(self._in_fork)

    def _watch(self) -> None:
        from ..live.later import Later

        self._watcher = self._made(self.settings.steps, self._done)
        if self.forked and self._children is not None:
            self._watcher.trains = partial(self._children.begun, self._name)
        if self.settings.every:
            self._later = Later(self.settings.every, self._watcher.boundaries, self._look)
        self._watcher.start()

    @contextmanager
    def _telling_what_breaks(self) -> Iterator[None]:
        """The program goes on, whatever is wrong with us."""
        try:
            yield
        except UsageError as error:
            self._hand_over(error_report(str(error), UsageError.exit_code))
        except Exception:  # noqa: BLE001 - the program must go on
            self._hand_over(self._broken(traceback.format_exc()))

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that is watched."""
        return os.getpid() != self._process

    def _in_fork(self) -> None:
        """This process has just been forked: what the other one has seen is not its own."""
        if self._over or self._watcher is None:
            return
        self._watcher.remove()
        self._told, self._grouped, self._later = False, None, None
        with self._telling_what_breaks():
            self._watch()

    def _made(self, steps: int, done: Callable[[Watcher], None], boundaries: Boundaries | None = None) -> Watcher:
        from ..live.eagerly import Eagerly
        from ..live.watcher import Watcher

        how = {"several": self._several, "eagerly": Eagerly(asked=self.settings.eager), "boundaries": boundaries}
        return Watcher(steps, self.settings.heads, done, self._streams, **how)

    def __enter__(self) -> WatchedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no trace, whatever has ended the run."""
        if self._watcher is not None:
            self._watcher.remove()

    def finish(self) -> None:
        """The program has ended: hand over what has not been handed over."""
        self._over = True
        if self._told or (self.forked and (self._watcher is None or self._watcher.idle)):
            return
        if self._watcher is None:
            self._hand_over(unread_report("the script never imported torch", self.settings.keep))
        else:
            from ..live.watcher import ENDED

            self._watcher.finish(ENDED)

    @property
    def place(self) -> Place:
        """Its place among the processes that train together: as torch has them, else as the launcher has."""
        distributed = sys.modules.get("torch.distributed")
        launched = ALONE if self.forked else self._launched
        known = self._grouped is not None or distributed is None or not distributed.is_available()
        if not known and distributed.is_initialized():  # it may be gone at the end
            self._grouped = Place(distributed.get_rank(), distributed.get_world_size(), launched.local)
        return self._grouped or launched

    def _word(self, report: Report, watcher: Watcher | None, name: str, step: int = 0) -> Handed:
        """The report with what tells whose it is; of nothing trained unless the watcher has seen otherwise."""
        place, group = self.place, os.environ.get("MASTER_PORT", "")
        idle = not report.error and (watcher is None or watcher.idle)
        mine: dict[str, Any] = {}
        if place.world > 1:
            from .company import payload

            mine = payload(report, watcher, place.rank, self.settings.reduction)
        return Handed(name, report, idle, place.rank, place.world, group, step, mine)

    def _several(self) -> bool:
        return self.place.world > 1

    def _hand_over(self, report: Report, watcher: Watcher | None = None, step: int = 0) -> None:
        """A report was made, of what ``watcher`` has seen; none where it could not watch.

        ``step`` is the number of a step that was looked at again, 0 for the first ones.
        """
        if self.forked:
            self._hand_in(report, watcher, step)
        else:
            self._tell(report, watcher, step)

    def _hand_in(self, report: Report, watcher: Watcher | None, step: int) -> None:
        """Leave the report in the folder, for who tells it."""
        if self._children is not None:
            self._children.hand_in(self._word(portable(report), watcher, self._name, step))

    @property
    def _name(self) -> str:
        """Of the program that this process runs."""
        name = Path(sys.argv[0]).name if sys.argv[0] not in {"", "-c"} else "python -c"
        return f"a fork of {name}" if self.forked else name

    @abstractmethod
    def _tell(self, report: Report, watcher: Watcher | None, step: int) -> None:
        """The same in the process that is watched itself."""

    @abstractmethod
    def _code(self) -> int:
        """What a process ends with that ``--stop`` ends."""

    # -- judging -------------------------------------------------------------------------------------

    def _done(self, watcher: Watcher) -> None:
        """The watched steps are over, or nothing more will be seen."""
        self._told = True
        self._judge(watcher)
        if self._later is not None and watcher.optimizer is not None:
            self._later.begin(watcher.optimizer)
        if self.settings.stop and not self._over:
            raise SystemExit(0 if self.forked else self._code())

    def _look(self, step: int) -> None:
        """The step that comes next is to be watched as well, where the one before it is not still being watched."""
        assert self._watcher is not None
        if not self._watcher.active:
            self._watcher = self._made(1, partial(self._done_again, step), self._watcher.boundaries)
            self._watcher.start()

    def _done_again(self, step: int, watcher: Watcher) -> None:
        """A later step is over; what the end of the script has cut short is not told."""
        if watcher.steps or watcher.failed:
            self._judge(watcher, step)

    def _judge(self, watcher: Watcher, step: int = 0) -> None:
        """Hand over what the watched steps train."""
        from ..host.preserve import same_random_state

        try:
            with same_random_state():
                self._hand_over(self._judged(watcher), watcher, step)
        except Exception:  # noqa: BLE001 - the script must go on, whatever is wrong with us
            self._hand_over(self._broken(traceback.format_exc()), watcher if step else None, step)

    def _judged(self, watcher: Watcher) -> Report:
        from ..batches.batch_source import template_at, tokenizer_beside
        from ..live.judged import report_of_watched

        if watcher.failed:
            return self._broken(watcher.failed)
        try:
            template = template_at(self.settings.tokenizer, self.settings.train_on)
        except UsageError as error:
            return error_report(*ending(error))
        named = tokenizer_beside(self.settings.tokenizer)
        report = report_of_watched(watcher, template, self.settings.keep, named, self.settings.reduction)
        report.findings = self.settings.strict(report.findings)
        return report

    def _declared(self) -> Sequence[Declaration]:
        """The streams of ``--streams``: read now, since a script must find torch unimported."""
        if self.settings.streams is None:
            return ()
        from ..models.streams_file import load_streams

        return load_streams(self.settings.streams)

    def _broken(self, trace: str) -> Report:
        """An exception of ours: the watcher is off, the script goes on."""
        if self.settings.verbose:
            print(trace, file=standard_error())
        last = trace.strip().splitlines()[-1]
        return error_report(f"watching stopped by an error of its own ({last}): run again with -v", 3)


def _in_forks(then: Callable[[], None]) -> None:
    """Have a method called in every process that is forked from this one, as long as its object lives."""
    kept = WeakMethod(then)

    def forked() -> None:
        mine = kept()
        if mine is not None:
            mine()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)


def _launched() -> Place:
    with suppress(UsageError):
        return environment_place() or ALONE
    return ALONE
