"""Everything that a run has to tell, gathered from this process and from those that it starts."""

from __future__ import annotations

from collections.abc import Mapping

from ..records.report import unread_report
from .children import Children
from .family import Family
from .handed import Handed
from .settings import Settings
from .telling import Telling

__all__ = ["UNWATCHED", "Gathering"]

#: What is never followed.
UNWATCHED = "python -I, -E and -S, other machines, containers, interpreters without loss-alignment"


class Gathering:
    """Tells each training when all its ranks have told of it, and at last what nobody has seen.

    Args:
        settings: how the run is watched.
        children: the processes that are followed; None if none are.
    """

    def __init__(self, settings: Settings, children: Children | None) -> None:
        self.telling = Telling(settings)
        self._keep = settings.keep
        self._children, self._family = children, Family(settings.keep)

    def add(self, *words: Handed) -> None:
        """Processes have handed in."""
        self._family.add(words)
        self._tell()

    def look(self) -> None:
        """See what has been handed in since."""
        if self._children is not None:
            self.add(*self._children.news())

    def rest(self, starter: str, code: int, unwatched: Mapping[str, str] | None = None) -> None:
        """The run is over: tell what lacks a rank, what was not watched, and if nothing was read, why.

        Args:
            starter: what was run, in words.
            code: what it has ended with.
            unwatched: why some were not watched, by name.
        """
        unseen = dict(unwatched or {})
        if self._children is not None:
            self._children.last_words(self._family)
            unseen |= self._children.unwatched()
        self._tell(over=True)
        if self._children is not None and self.telling.report is not None and not self._family.lacks:
            unseen |= dict.fromkeys(self._children.silent(), "it was killed, or still runs")
        if unseen:
            told = "; ".join(f"{name} was not watched: {why}" for name, why in unseen.items())
            self.telling.tell(unread_report(told, self._keep), "processes")
        elif self.telling.report is None:
            self.telling.tell(unread_report(self._why(starter, code), self._keep))

    def _tell(self, *, over: bool = False) -> None:
        for report, name, step in self._family.complete(over=over):
            if step:
                self.telling.again(report, name, step)
            else:
                self.telling.tell(report, name)

    def _why(self, starter: str, code: int) -> str:
        """Why nothing was read: how it all ended, what the script itself says, and what has become of others."""
        own = [one.why for one in self._family.idle if not one.name]
        others = sorted({one.name for one in self._family.idle if one.name})
        silent = [] if self._children is None else sorted(set(self._children.silent()))
        told = [f"{starter} ended with exit code {code} before any model was trained"] if code else []
        told += own
        if silent:
            told.append(f"{', '.join(silent)} ended, or was killed, before it could tell")
        elif others:
            why = {one.why for one in self._family.idle if one.name}
            told.append(f"{', '.join(others)} made an optimizer, and: {'; '.join(sorted(why))}")
        elif not own:
            told.append(f"no Python process that it started has made an optimizer (not followed: {UNWATCHED})")
        return "; ".join(told)
