"""The finding catalogue: one file a code, with all that the toolkit knows of it.

A new code is a new file, ``laNNN_its_name.py``, that holds its ``RULE``: nothing else lists it.
The files are read when a code is first asked for, and cost no torch import.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from functools import cached_property
from itertools import takewhile

from ..errors import InputError
from .rule import Rule, Severity

__all__ = ["RULES", "Rule", "Severity", "failing", "lookup", "nearest"]


class _Catalogue(Mapping[str, Rule]):
    """Every rule by its code, in the order of the codes."""

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        files = sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name.startswith("la"))
        rules = [importlib.import_module(f".{file}", __name__).RULE for file in files]
        return {rule.code: rule for rule in rules}

    def __getitem__(self, code: str) -> Rule:
        return self._rules[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def values(self) -> ValuesView[Rule]:
        return self._rules.values()

    def items(self) -> ItemsView[str, Rule]:
        return self._rules.items()


RULES: Mapping[str, Rule] = _Catalogue()


def failing(check: str) -> frozenset[str]:
    """The codes whose errors fail a check, by its id."""
    return frozenset(rule.code for rule in RULES.values() if check in rule.checks)


def nearest(code: str) -> str:
    """The known code or name that is closest to ``code``: the suggestion of an error message."""
    typed = code.strip().lower()

    def closeness(key: str) -> tuple[float, int]:
        key = key.lower()
        same = takewhile(lambda pair: pair[0] == pair[1], zip(typed, key, strict=False))
        return difflib.SequenceMatcher(None, typed, key).ratio(), len(list(same))

    return max((*RULES, *(rule.name for rule in RULES.values())), key=closeness)


def lookup(code_or_name: str) -> Rule:
    """The rule with this code or name, in any case.

    Raises:
        InputError: there is no such rule; the message names the nearest one.
    """
    key = code_or_name.strip()
    named = {rule.name: rule for rule in RULES.values()}
    rule = RULES.get(key.upper()) or named.get(key.lower())
    if rule is None:
        raise InputError(
            f"no finding has the code or name {code_or_name!r}; the nearest is {nearest(key)}. "
            "loss-align rules lists all."
        )
    return rule
