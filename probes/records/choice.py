"""Which findings count: codes that are selected or ignored, and blind spots that are accepted by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alignment.errors import InputError
from alignment.findings import Finding
from alignment.rules import RULES, lookup

from ..errors import UsageError

__all__ = ["Choice", "Keep", "code_of"]

#: Which findings count; a ``Choice`` is one.
Keep = Callable[[Finding], bool]


@dataclass(frozen=True)
class Choice:
    """Says of a finding whether it counts; the same in every door.

    A blind spot counts unless it is ignored: what is selected never hides that something was not looked at.

    Attributes:
        select: codes that count; all of them if empty.
        ignore: codes that do not count, wherever they are found.
        named: codes that do not count on one object, a head or a stream.
        origin: which options, this choice among them, were not typed, and where they stand; empty if all were.
    """

    select: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    named: frozenset[tuple[str, str]] = frozenset()
    origin: str = ""

    @classmethod
    def of(cls, ignore: Sequence[str] | str = (), select: Iterable[str] = (), option: str = "ignore") -> Choice:
        """The choice that words like ``LA102`` and ``LA801:codec_head`` make.

        Args:
            ignore: codes or names of rules, each perhaps with the object that it is ignored on.
            select: codes or names.
            option: what the words of ``ignore`` were given as, for the message.

        Raises:
            UsageError: an unknown code, or a colon without an object behind it.
        """
        every, named = set(), set()
        for word in [ignore] if isinstance(ignore, str) else ignore:
            code, colon, name = word.strip().partition(":")
            if colon and not name:
                raise UsageError(f"{option}: {word!r} names nothing behind the colon: write {code} or {code}:NAME")
            if colon:
                named.add((code_of(code, option), name))
            else:
                every.add(code_of(code, option))
        return cls(frozenset(code_of(word, "select") for word in select), frozenset(every), frozenset(named))

    def __call__(self, finding: Finding) -> bool:
        """Whether the finding counts."""
        if finding.code in self.ignore or any(_is_on(finding, *one) for one in self.named):
            return False
        return finding.is_blind or not self.select or finding.code in self.select

    @property
    def notes(self) -> list[str]:
        """What a reader should know: options that were not typed, blind spots that are ignored without a name."""
        bare = sorted(code for code in self.ignore if RULES[code].severity == "blind")
        return [self.origin] * bool(self.origin) + [
            f"warning: {code} is ignored without a name, which accepts every {RULES[code].name} there is or will be: "
            f"write {code}:{'HEAD' if code == 'LA801' else 'STREAM'}"
            for code in bare
        ]


def code_of(word: str, option: str) -> str:
    """The code of a rule, by code or name.

    Raises:
        UsageError: an unknown one; the message names the nearest.
    """
    try:
        return lookup(word.strip()).code
    except InputError as error:
        raise UsageError(f"{option}: {error}") from error


def _is_on(finding: Finding, code: str, name: str) -> bool:
    """Whether a finding is on an object: of that name, or a part of it (``audio`` has ``audio[0]``)."""
    return finding.code == code and (finding.stream == name or finding.stream.startswith((f"{name}[", f"{name}.")))
