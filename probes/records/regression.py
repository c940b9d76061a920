"""Regressions: what is different in a run from what was recorded, each difference by its kind, better or worse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, Literal

from ..errors import UsageError
from .record import BASELINE_CHECK, Record
from .rounding import agree, coarser

__all__ = ["Change", "Comparison", "compare"]

Effect = Literal["regression", "improvement", "neutral"]
Kind = Literal["verdict", "finding", "check", "stream", "decision", "shape", "loss", "case", "data", "environment"]
#: None where two values are the same.
Judge = Callable[[Any, Any], Effect | None]

#: What a finding is, from good to bad.
SEVERITIES = ("warning", "blind", "error")
#: What a check says, from good to bad.
STATUSES = ("pass", "skip", "fail", "error")
DECIDED = ("convention", "pairing", "path", "verified")


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        kind: what sort of thing differs.
        where: ``text``, ``audio``, ``audio[3]``, ``run``, or the name of a case.
        what: the thing itself: ``offsets``, ``LA102 copy-objective``, ``pairing-text``, ``logits``.
        before: in the old record; None where it was not there.
        after: in the new one; None where it is gone.
        effect: whether it got worse or better; neutral where neither can be said.
        codes: the finding codes that the new run names with it.
    """

    kind: Kind
    where: str
    what: str
    before: Any
    after: Any
    effect: Effect
    codes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The change as plain JSON values."""
        return {key: value for key, value in vars(self).items() if key != "codes"}


@dataclass(frozen=True)
class Comparison:
    """All differences of two records, and the differences of their environments beside them."""

    changes: tuple[Change, ...]
    environment: tuple[Change, ...]

    def of(self, effect: Effect) -> list[Change]:
        """The changes of one effect."""
        return [change for change in self.changes if change.effect == effect]

    @property
    def verdict(self) -> str:
        """``fail`` with a regression, else ``pass``."""
        return "fail" if self.of("regression") else "pass"


def compare(old: Record, new: Record) -> Comparison:
    """What differs between two records of one kind.

    Raises:
        UsageError: records of different kinds, or an old one that holds no result.
    """
    if old.kind != new.kind:
        raise UsageError(f"{old.name} is a {old.kind} record, {new.name or 'the run'} a {new.kind} record")
    if old.content.get("verdict") == "error" and old.content.get("error"):
        raise UsageError(f"{old.name}: verdict: the run it records ended in an error: {old.content['error']}")
    found = _cases(old.content, new.content) if old.kind == "probe" else _settled([*_report(old, new)])
    return Comparison(tuple(found), tuple(_environment(old.provenance, new.provenance)))


def _report(old: Record, new: Record) -> Iterator[Change]:
    before, after = old.content, new.content
    if after["verdict"] == "error" and after.get("error"):
        yield Change("verdict", "run", "verdict", before["verdict"], f"error: {after['error']}", "regression")
        return
    dtype = coarser(*(str(record.provenance.get("dtype")) for record in (old, new)))
    yield from _findings(*_comparable(before, after))
    yield from _streams(before["streams"], after["streams"], dtype)
    for kind in _either(before["decision"], after["decision"]):
        yield from _decided("decision", kind, before["decision"].get(kind), after["decision"].get(kind))
    for name in _either(before["shapes"], after["shapes"]):
        yield from _entry("shape", _modality(name), name, before["shapes"], after["shapes"], _same)
    yield from _losses(before, after, dtype)
    yield from _checks(before["checks"], after["checks"])
    if "data" in before or "data" in after:
        yield from _data(before.get("data", {}), after.get("data", {}))


def _settled(found: list[Change]) -> list[Change]:
    """Where a run only got better, losses, weights and counts that moved with it are no regression."""
    others = {change.effect for change in found if not _moves(change)}
    if "improvement" not in others or "regression" in others:
        return found
    return [replace(change, effect="neutral") if _moves(change) else change for change in found]


def _moves(change: Change) -> bool:
    """Whether a change is that of a value which is neither better nor worse higher or lower."""
    moved = change.kind == "loss" or change.what in ("weight_sum", "supervised")
    return moved and all(value is not None and isfinite(float(value)) for value in (change.before, change.after))


# -- what is better, what is worse ----------------------------------------------------------------------


def _same(old: Any, new: Any) -> Effect | None:
    return None if old == new else "regression"


def _fewer(old: float, new: float) -> Effect | None:
    return None if old == new else "improvement" if new < old else "regression"


def _offsets(old: Mapping[str, int], new: Mapping[str, int]) -> Effect | None:
    """Better where fewer rows are wrong or more are right, and neither the other way round."""
    if old == new:
        return None
    right_before, right = (h.get("1", 0) + h.get("outside", 0) for h in (old, new))
    wrong_before, wrong = sum(old.values()) - right_before, sum(new.values()) - right
    better = wrong <= wrong_before and right >= right_before and (wrong, right) != (wrong_before, right_before)
    return "improvement" if better else "regression"


def _status(old: str, new: str) -> Effect | None:
    return _fewer(STATUSES.index(old), STATUSES.index(new))


def _rounded(old: Any, new: Any, *, terms: int, dtype: str) -> Effect | None:
    """A number that differs by more than rounding; one that is not finite is equal to nothing."""
    return None if agree(float(old), float(new), terms, dtype) else "regression"


def _spread(old: Any, new: Any, *, terms: int, dtype: str) -> Effect | None:
    """Weights that are more alike than they were are better."""
    if agree(float(old), float(new), terms, dtype, least=1.0):
        return None
    return "improvement" if float(new) < float(old) else "regression"


def _proof(old: Any, new: Any) -> Effect | None:
    """A pairing that the ids prove is better than one they do not."""
    return _fewer(not old, not new)


# -- the parts of a report --------------------------------------------------------------------------------


def _entry(
    kind: Kind, where: str, what: str, before: Mapping[str, Any], after: Mapping[str, Any], judge: Judge, key: str = ""
) -> Iterator[Change]:
    """The change of one entry, if any: judged where both have it, worse where it vanished."""
    old, new = before.get(key or what), after.get(key or what)
    if old is None and new is None:
        return
    effect = "neutral" if old is None else "regression" if new is None else judge(old, new)
    if effect is not None:
        yield Change(kind, where, what, old, new, effect)


def _came_or_went(kind: Kind, name: str, old: Any, new: Any) -> Change:
    """A whole stream or case: what vanishes is watched no more, which is worse."""
    return Change(kind, name, kind, old, new, "neutral" if old is None else "regression")


def _comparable(before: dict[str, Any], after: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The findings of both, without blind spots where one is older than that verdict, and says nothing of them."""
    older = not all("judged" in one for one in (before, after))
    for one in (before, after):
        yield [found for found in one["findings"] if not (older and found["severity"] == "blind")]


def _findings(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[Change]:
    """Findings that came, went, or changed in count or severity. LA701 itself follows from these."""
    old, new = ({(f["code"], f["stream"]): f for f in part if f["code"] != "LA701"} for part in (before, after))
    for key in _either(old, new):
        (code, stream), one, other = key, old.get(key), new.get(key)
        where = stream if stream != "all" else "run"
        what = f"{code} {(one or other)['name']}"  # type: ignore[index]
        counts = tuple(None if f is None else f["count"] for f in (one, other))
        if one is None or other is None:
            yield Change("finding", where, what, *counts, "regression" if one is None else "improvement", (code,))
            continue
        grown = _fewer(one["count"], other["count"])
        if one["severity"] != other["severity"]:
            worse = SEVERITIES.index(other["severity"]) > SEVERITIES.index(one["severity"])
            told = (f"{one['severity']} ({counts[0]})", f"{other['severity']} ({counts[1]})")
            yield Change("finding", where, what, *told, "regression" if worse else "improvement", (code,))
        elif grown is not None:
            yield Change("finding", where, what, *counts, grown, (code,))


def _checks(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[Change]:
    old, new = ({c["id"]: c for c in part if c["id"] != BASELINE_CHECK} for part in (before, after))
    for name in _either(old, new):
        one, other = old.get(name, {}).get("status"), new.get(name, {}).get("status")
        effect = _status(one or "pass", other) if other is not None else "neutral" if one == "skip" else "regression"
        if one is None:
            effect = "regression" if other in ("fail", "error") else "neutral"
        if effect is not None:
            codes = tuple(re.findall(r"LA\d{3}", new.get(name, {}).get("detail", "")))
            yield Change("check", _modality(name), name, one, other, effect, codes)


def _streams(before: Mapping[str, Any], after: Mapping[str, Any], dtype: str) -> Iterator[Change]:
    for name in _either(before, after):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            yield _came_or_went("stream", name, one and f"{one['rows']} rows", other and f"{other['rows']} rows")
            continue
        terms = max(part.get("supervised", 0) for part in (one, other))
        judges: dict[str, Judge] = {
            "rows": _same,
            "expected": _same,
            "offsets": _offsets,
            "supervised": _same,
            "missing": _fewer,
            "unexpected": _fewer,
            "unreadable": _fewer,
            "weight_sum": partial(_rounded, terms=terms, dtype=dtype),
            "weight_spread": partial(_spread, terms=terms, dtype=dtype),
        }
        for what, judge in judges.items():
            yield from _entry("stream", name, what, one, other, judge)


def _decided(kind: Kind, where: str, one: Any, other: Any, prefix: str = "") -> Iterator[Change]:
    """A decision that came, went, or was taken otherwise."""
    one, other = one or {}, other or {}
    if bool(one) != bool(other):
        told = [part.get("pairing", "none") if part else None for part in (one, other)]
        yield Change(kind, where, f"{prefix}decision", *told, "regression" if one else "neutral")
        return
    for what in DECIDED:
        judge = _proof if what == "verified" else _same
        yield from _entry(kind, where, f"{prefix}{what}", one, other, judge, key=what)


def _losses(before: Mapping[str, Any], after: Mapping[str, Any], dtype: str) -> Iterator[Change]:
    for name in _either(before["losses"], after["losses"]):
        terms = max(
            sum(entry["expected"] for stream, entry in part["streams"].items() if name in ("total", _modality(stream)))
            for part in (before, after)
        )
        judge = partial(_rounded, terms=terms, dtype=dtype)
        yield from _entry("loss", _modality(name), f"{name} loss", before["losses"], after["losses"], judge, key=name)


def _data(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """What a data set trains may not drift unseen: any other tokens or labels are a change for the worse."""
    for what in ("samples", "targets"):
        yield from _entry("data", "run", what, before, after, _same)
    yield from _entry("data", "run", "unreadable", before, after, _fewer)
    kinds = [part.get("kinds", {}) for part in (before, after)]
    for what in _either(*kinds):
        old, new = (part.get(what, 0) for part in kinds)
        effect = _fewer(old, new)
        if effect is not None:
            yield Change("data", "run", what, old, new, effect)
    roles = [{role: entry["trained"] for role, entry in part.get("roles", {}).items()} for part in (before, after)]
    for what in _either(*roles):
        yield from _entry("data", "run", f"trained tokens of {what}", *roles, _same, key=what)
    yield from _entry("data", "run", "tokens and labels", before, after, _same, key="digest")


# -- the cases of a probe ---------------------------------------------------------------------------------


def _cases(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in _either(before, after):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            yield _came_or_went("case", name, one and "recorded", other and "recorded")
            continue
        if one.get("error") != other.get("error"):
            gone = other.get("error") is None
            effect: Effect = "improvement" if gone else "regression"
            yield Change("case", name, "error", one.get("error"), other.get("error"), effect)
        for what in _either(one["shapes"], other["shapes"]):
            yield from _entry("case", name, what, one["shapes"], other["shapes"], _same)
        for kind in ("text", "audio"):
            yield from _decided("case", name, one.get(kind), other.get(kind), prefix=f"{kind} ")
            valid = [part.get("valid_tokens", {}) for part in (one, other)]
            yield from _entry("case", name, f"{kind} valid tokens", *valid, _same, key=kind)


# -- environment, and what the parts share -----------------------------------------------------------------


def _environment(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """What both say of their environment, and say otherwise; the spelling of the command is no part of it."""
    for key in old:
        if key in new and key != "command" and old[key] != new[key]:
            yield Change("environment", "run", key, old[key], new[key], "neutral")


def _either(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> list[Any]:
    """The keys of both, in the order of the old one."""
    return [*old, *(key for key in new if key not in old)]


def _modality(name: str) -> str:
    """``text``, ``audio`` or ``run``: what a check, a loss, a shape or a stream is about."""
    if "audio" in name:
        return "audio"
    of_text = ("text", "logits", "expanded_labels", "expanded_input_ids", "fallback-path")
    return "text" if any(word in name for word in of_text) else "run"
