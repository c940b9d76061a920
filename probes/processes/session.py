"""One script that is run in this process, watched: from the first import of torch to the exit code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..live.launch import Ended
from ..records.report import Report
from .children import Children
from .gathering import Gathering
from .settings import Settings
from .watched_process import WatchedProcess

if TYPE_CHECKING:
    from ..live.watcher import Watcher
    from .company import Company

__all__ = ["Session", "Settings"]


class Session(WatchedProcess):
    """Watches the script, tells what its steps train as soon as they are done, and knows the exit code.

    Args:
        settings: how it is watched.
        children: the processes that the script starts; None if they are not followed.
    """

    def __init__(self, settings: Settings, children: Children | None = None) -> None:
        super().__init__(settings, children)
        self._environ = dict(os.environ)
        self._gathering = Gathering(settings, children)
        self._company: Company | None = None

    @property
    def report(self) -> Report | None:
        """What was told; None before."""
        return self._gathering.telling.report

    def end(self, ended: Ended) -> int:
        """The script has ended: tell what has not been told; the code to exit with."""
        self.finish()
        if self.forked:
            return ended.code  # it came to the script's end, or left by os._exit
        self.look()
        self._gathering.rest("the script", ended.code)
        self._gathering.telling.ended_with(ended.code)
        return ended.code or self._code()

    def look(self) -> None:
        """Tell what others have handed in since."""
        self._gathering.look()

    def _tell(self, report: Report, watcher: Watcher | None, step: int) -> None:
        """Told at once; where a launcher has started several ranks by the first of them, for all."""
        if watcher is not None and self._launched.world > 1:
            from .company import Company

            self._company = self._company or Company(self._environ, self.settings.keep, self.settings.reduction)
            joined = self._company.joined(report, watcher)
            if not step:
                self._gathering.telling.tell(joined, silently=not self._company.speaks)
            elif self._company.speaks:
                self._gathering.telling.again(joined, "", step)
        elif report.error and not step:
            self._gathering.telling.tell(report)
        else:
            self._gathering.add(self._word(report, watcher, "", step))

    def _code(self) -> int:
        """What the report makes of a script that itself ended well; the same on every rank."""
        own = self._gathering.telling.code
        return own if self._company is None else self._company.agreed(own)
