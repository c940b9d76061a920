"""The other ranks of a distributed run: each watches itself, and the first tells what all have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignment.findings import Finding, finding

from ..checks.reduction import Reduction
from ..errors import CannotRunError, UsageError
from ..host.place import environment_place
from ..live.declared_reduction import held_to
from ..live.step_weights import of_all_ranks
from ..live.whole_step import of_ranks
from ..ranks import MissingRanksError, RankExchange, told_ranks
from ..ranks.drift import drift, still_alike
from ..ranks.launcher import leave_reason, told_code
from ..ranks.same_batch import BASIS
from ..ranks.shards import join_shards, rank_payload
from ..records.choice import Keep
from ..records.report import Report

if TYPE_CHECKING:
    from ..live.watcher import Watcher

__all__ = ["Company", "join", "payload"]

#: Seconds that ranks wait for each other: they keep step with each other anyway.
PATIENCE = 60.0
#: What the code makes of a batch, whatever is in it.
OF_CODE = frozenset(("LA101", "LA102", "LA103", "LA104", "LA105", "LA106", "LA107", "LA206", "LA605"))


class Company:
    """All ranks of this run, through the launcher's store; this process alone where there is no launcher.

    Nothing is asked of the store before there is something to say.

    Args:
        environ: the environment in which the run was started.
        keep: which findings count.
        reduction: what the weights of a step are declared to keep to; None if nothing is.
    """

    def __init__(self, environ: Mapping[str, str], keep: Keep, reduction: Reduction | None = None) -> None:
        self._environ, self._keep, self._reduction = environ, keep, reduction
        self._agreed: int | None = None

    @cached_property
    def _found(self) -> tuple[RankExchange | None, str]:
        """The exchange, if there are other ranks; and why it cannot be had."""
        try:
            place = environment_place(self._environ)
            if place is None or place.world < 2:
                return None, ""
            return RankExchange.from_environment(PATIENCE, room="run", environ=self._environ), ""
        except (CannotRunError, UsageError) as error:
            return None, str(error)

    @property
    def speaks(self) -> bool:
        """Whether this rank tells what was found."""
        return self._found[0] is None or self._found[0].rank == 0

    @property
    def several(self) -> bool:
        """Whether a launcher has started other ranks; asks nothing of the store."""
        with suppress(UsageError):
            place = environment_place(self._environ)
            return place is not None and place.world > 1
        return False

    def joined(self, report: Report, watcher: Watcher) -> Report:
        """The report with what the other ranks have found, on the first; elsewhere the rank's own."""
        exchange, problem = self._found
        if exchange is not None:
            missing = ""
            try:
                said = exchange.gather(payload(report, watcher, exchange.rank, self._reduction))
            except MissingRanksError as error:
                said, missing = [error.received[rank] for rank in sorted(error.received)], str(error)
            except CannotRunError as error:
                said, problem = None, str(error)
            if said is not None:
                join(report, said, missing, self._keep)
        if problem:
            report.notes.append(f"ranks were not compared: {problem}")
        return report

    def agreed(self, code: int) -> int:
        """The exit code of all ranks: that of the first."""
        exchange, _ = self._found
        if self._agreed is None:
            try:
                self._agreed = code if exchange is None else int(exchange.share({"code": code})["code"])
            except CannotRunError:
                self._agreed = code
            leave_reason(self._agreed, told_code(self._agreed))
        return self._agreed


def payload(report: Report, watcher: Watcher | None, rank: int, reduction: Reduction | None = None) -> dict[str, Any]:
    """What this rank hands in, as JSON values."""
    told = {**rank_payload(report, rank), "error": report.error, "reduction": reduction}
    if watcher is None:
        return {**told, "imprints": [], "step_weights": [], "averaged": False}
    weights = [{kind: one.as_dict() for kind, one in step.items()} for step in watcher.step_weights]
    return {**told, "imprints": watcher.imprints, "step_weights": weights, "averaged": watcher.averaged}


def join(report: Report, said: Sequence[dict[str, Any]], missing: str, keep: Keep) -> None:
    """Add what other ranks have found to the first one's report, and that their code differs (LA603)."""
    ran = [one for one in said if not one["error"]]
    failed = [f"rank {one['rank']}: {one['error']}" for one in said if one["error"]]
    if missing or failed:
        report.notes.append(f"not all ranks were compared: {'; '.join([*failed, missing]).rstrip('; ')}")
    if not report.error and len(ran) > 1:
        read = [one for one in ran if one["targets"]]
        odd = [*drift(ran), *_apart(read)]
        kept = [found for found in odd if keep(found)]
        join_shards(report, ran, kept, [found for found in odd if found not in kept], together=still_alike(ran))
        averaged = all(one["averaged"] for one in ran)
        found = of_ranks(ran, report.findings, averaged=averaged)
        if ran[0]["reduction"] is not None:
            found = _held(report, ran, found, averaged=averaged)
        report.add(found, keep)


def _held(report: Report, ran: Sequence[dict[str, Any]], found: Sequence[Finding], *, averaged: bool) -> list[Finding]:
    """What was found of all ranks, held to the reduction that is declared, whose check the report is given."""
    known, steps = list(report.findings), of_all_ranks(ran)
    told, reduced = held_to(ran[0]["reduction"], steps, [*known, *found], averaged=averaged)
    new = [one for one in told if one not in known]
    report.checks = [*(one for one in report.checks if one.id != "reduction"), reduced.check([*known, *new])]
    return new


def _apart(said: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """LA603 where ranks do otherwise with their own batches than the first, as no data explains."""
    if not said:
        return []
    found = [{f"{f['code']} on {f['stream']}" for f in one["findings"] if f["code"] in OF_CODE} for one in said]
    odd = [(one["rank"], mine) for one, mine in zip(said, found, strict=True) if mine != found[0]]
    if not odd:
        return []
    first = ", ".join(sorted(found[0])) or "nothing of the kind"
    told = "; ".join(f"rank {rank} has {', '.join(sorted(mine)) or 'nothing of the kind'}" for rank, mine in odd)
    message = f"{told_ranks([rank for rank, _ in odd])} of {len(said)} train otherwise than rank 0 ({first}): {told}"
    return [finding("LA603", "all", message, count=len(odd), basis=BASIS)]
