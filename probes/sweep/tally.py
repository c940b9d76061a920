"""What a sweep has counted: sums that grow with no sample, and the worst samples of every kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..roles import Role
from .judge import KINDS, Judged
from .sample import Sample

__all__ = ["Tally", "Worst"]

#: Samples that are kept of each kind, and tokens that are shown of each around what is odd.
KEPT, AROUND = 3, 24
#: Bins of the trained share.
BINS = 10
WRAP = 1 << 64


@dataclass(frozen=True)
class Worst:
    """A sample to look at: the tokens around what is odd, which of them are trained, and which one it is."""

    where: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    at: int


@dataclass
class Tally:
    """Sums over samples; two are added with ``add``.

    Attributes:
        samples, tokens, targets: how many; ``longest`` is the longest sample.
        kinds: samples of each kind.
        roles: tokens of each role, and how many are trained.
        answers: trained answers that have an end, and those whose end is trained.
        choices: samples by what their labels train.
        shares: samples by their trained share, in tenths; ``lengths``: by the power of two that they fit into.
        ahead: samples whose labels stand a row before the tokens that they name.
        unlabelled: samples of which nothing said what is trained.
        unreadable: samples that could not be read, and why the first could not.
        worst: samples of each kind to look at.
        digest: of all samples, in any order.
    """

    samples: int = 0
    tokens: int = 0
    targets: int = 0
    longest: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    roles: dict[Role, list[int]] = field(default_factory=dict)
    answers: list[int] = field(default_factory=lambda: [0, 0])
    choices: Counter[str] = field(default_factory=Counter)
    shares: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    ahead: int = 0
    unlabelled: int = 0
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)
    worst: dict[str, list[Worst]] = field(default_factory=dict)
    digest: int = 0

    def count(self, sample: Sample, told: Judged) -> None:
        """Count one sample."""
        self.samples += 1
        self.tokens += told.tokens
        self.targets += told.targets
        self.longest = max(self.longest, told.tokens)
        self.kinds.update(told.kinds.keys())
        _sum_roles(self.roles, told.roles)
        self.answers = [one + more for one, more in zip(self.answers, told.answers, strict=True)]
        if told.choice:
            self.choices[told.choice] += 1
        self.shares[min(BINS - 1, BINS * told.targets // max(1, told.tokens))] += 1
        self.lengths[max(0, told.tokens - 1).bit_length()] += 1
        self.ahead += told.ahead
        self.unlabelled += sample.labels is None
        self.digest = (self.digest + told.digest) % WRAP
        for kind, at in told.kinds.items():
            kept = self.worst.setdefault(kind, [])
            if len(kept) < KEPT:
                kept.append(_shown(sample, told, at))

    def misread(self, reason: str) -> None:
        """Count a sample that cannot be read."""
        self.samples += 1
        self.unreadable += 1
        if len(self.reasons) < KEPT:
            self.reasons.append(reason)

    def add(self, other: Tally) -> None:
        """Add what was counted elsewhere, after this."""
        for name in ("samples", "tokens", "targets", "ahead", "unlabelled", "unreadable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        for name in ("kinds", "choices", "shares", "lengths"):
            getattr(self, name).update(getattr(other, name))
        _sum_roles(self.roles, other.roles)
        self.answers = [one + more for one, more in zip(self.answers, other.answers, strict=True)]
        self.digest = (self.digest + other.digest) % WRAP
        self.reasons = [*self.reasons, *other.reasons][:KEPT]
        for kind, found in other.worst.items():
            self.worst[kind] = [*self.worst.get(kind, ()), *found][:KEPT]

    def as_dict(self) -> dict[str, Any]:
        """What a record keeps, and a comparison is about."""
        return {
            "samples": self.samples,
            "tokens": self.tokens,
            "targets": self.targets,
            "longest": self.longest,
            "unreadable": self.unreadable,
            "kinds": {kind: self.kinds[kind] for kind in KINDS if self.kinds[kind]},
            "roles": {str(role): {"tokens": n, "trained": on} for role, (n, on) in sorted(self.roles.items())},
            "answers": {"ended": self.answers[0], "trained": self.answers[1]},
            "choices": dict(sorted(self.choices.items())),
            "shares": {_share(tenth): self.shares[tenth] for tenth in range(BINS) if self.shares[tenth]},
            "lengths": {str(1 << power): self.lengths[power] for power in sorted(self.lengths)},
            "digest": f"{self.digest:016x}",
        }


def _share(tenth: int) -> str:
    return f"{100 * tenth // BINS}-{100 * (tenth + 1) // BINS}%"


def _sum_roles(into: dict[Role, list[int]], more: dict[Role, list[int]]) -> None:
    for role, counts in more.items():
        have = into.setdefault(role, [0, 0])
        have[0] += counts[0]
        have[1] += counts[1]


def _shown(sample: Sample, told: Judged, at: int) -> Worst:
    begin = max(0, at - AROUND)
    end = begin + 2 * AROUND
    return Worst(sample.where, sample.ids[begin:end], tuple(told.labelled[begin:end]), at - begin)
