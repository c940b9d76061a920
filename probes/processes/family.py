"""What the processes of one run have seen, put together: ranks of one training are one report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from alignment.findings import finding

from ..records.choice import Choice
from ..records.report import Report
from .handed import Handed

__all__ = ["Family"]


@dataclass
class _Training:
    """Processes that train together, by their rank."""

    world: int
    group: str
    step: int = 0
    ranks: dict[int, Handed] = field(default_factory=dict)
    told: bool = False

    def takes(self, one: Handed) -> bool:
        """Whether this is a rank of it that has not handed in yet."""
        return (one.world, one.group, one.step) == (self.world, self.group, self.step) and one.rank not in self.ranks

    @property
    def trains(self) -> bool:
        """Whether any of them trains something; a world of processes that generate or measure is none."""
        return not all(one.idle for one in self.ranks.values())


class Family:
    """Puts together what is handed in.

    Args:
        keep: which findings count.

    Attributes:
        idle: what processes that have trained nothing say of why.
    """

    def __init__(self, keep: Choice) -> None:
        self._keep = keep
        self._trainings: list[_Training] = []
        self.idle: list[Handed] = []

    def add(self, words: Sequence[Handed]) -> None:
        """Processes have handed in what they have seen."""
        for one in words:
            if one.world == 1 and one.idle:
                self.idle.append(one)
                continue
            mine = next((training for training in self._trainings if training.takes(one)), None)
            if mine is None:
                mine = _Training(one.world, one.group, one.step)
                self._trainings.append(mine)
            mine.ranks[one.rank] = one

    @property
    def waits(self) -> bool:
        """Whether a training lacks some of its ranks."""
        return any(not (one.told or one.step) and len(one.ranks) < one.world for one in self._trainings)

    @property
    def lacks(self) -> bool:
        """Whether a training was given that lacked some of its ranks, and says so."""
        return any(one.told and len(one.ranks) < one.world for one in self._trainings)

    def complete(self, *, over: bool = False) -> Iterator[tuple[Report, str, int]]:
        """Trainings that all ranks have told of and that were not given before, with their program's name and step.

        ``over`` says that nothing more will come: what lacks a rank is given as well, and says so, but not where it
        was looked at again and has ended meanwhile.
        """
        for training in self._trainings:
            whole = len(training.ranks) == training.world
            if training.told or not (whole or (over and not training.step)):
                continue
            training.told = True
            if training.trains:
                yield self._joined(training)

    def _joined(self, training: _Training) -> tuple[Report, str, int]:
        first = training.ranks[min(training.ranks)]
        if training.world > 1:
            self._join(first.report, training)
        return first.report, first.name, training.step

    def _join(self, report: Report, training: _Training) -> None:
        from ..ranks.exchange import told_ranks
        from .company import join

        said = [one.payload for _, one in sorted(training.ranks.items())]
        missing = [rank for rank in range(training.world) if rank not in training.ranks]
        join(report, said, "", self._keep)
        if missing:
            message = (
                f"{told_ranks(missing)} of {training.world} handed in nothing: ended before, or on another machine "
                "(start each rank there with --no-python loss-align run SCRIPT)"
            )
            report.add([finding("LA804", "all", message, count=len(missing))], self._keep)
