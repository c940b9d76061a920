"""The other ranks of a distributed run: each watches itself, and the first tells what all have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from alignment.findings import finding

from ..errors import CannotRunError, UsageError
from ..ranks import MissingRanksError, RankExchange, told_ranks
from ..ranks.exchange import environment_rank
from ..report.model import Check, Report

__all__ = ["Company"]

#: Seconds that ranks wait for each other: they keep step with each other anyway.
PATIENCE = 60.0


class Company:
    """All ranks of this run, through the launcher's store; this process alone where there is no launcher.

    Nothing is asked of the store before there is something to say.

    Args:
        environ: the environment in which the run was started.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._agreed: int | None = None

    @cached_property
    def _found(self) -> tuple[RankExchange | None, str]:
        """The exchange, if there are other ranks; and why it cannot be had."""
        try:
            ranks = environment_rank(self._environ)
            if ranks is None or ranks[1] < 2:
                return None, ""
            return RankExchange.from_environment(PATIENCE, room="run", environ=self._environ), ""
        except (CannotRunError, UsageError) as error:
            return None, str(error)

    @property
    def speaks(self) -> bool:
        """Whether this rank tells what was found."""
        return self._found[0] is None or self._found[0].rank == 0

    def joined(self, report: Report) -> Report:
        """The report with what the other ranks have found, on the first; elsewhere the rank's own."""
        exchange, problem = self._found
        if problem:
            report.notes.append(f"ranks were not compared: {problem}")
        if exchange is None:
            return report
        try:
            said = exchange.gather(_payload(report))
        except MissingRanksError as error:
            said = [error.received.get(rank, {"error": str(error)}) for rank in range(exchange.world)]
        except CannotRunError as error:
            report.notes.append(f"ranks were not compared: {error}")
            return report
        if said is not None:
            _compare(report, said)
        return report

    def agreed(self, code: int) -> int:
        """The exit code of all ranks: that of the first."""
        exchange, _ = self._found
        if self._agreed is None:
            try:
                self._agreed = code if exchange is None else int(exchange.share({"code": code})["code"])
            except CannotRunError:
                self._agreed = code
        return self._agreed


def _payload(report: Report) -> dict[str, Any]:
    findings = [one.as_dict() for one in report.findings]
    return {"error": report.error, "verdict": report.verdict, "findings": findings}


def _compare(report: Report, said: Sequence[Mapping[str, Any]]) -> None:
    """Add what other ranks have found to the first one's report, and that they differ (LA603)."""
    own = {_key(one) for one in said[0].get("findings", ()) if one["severity"] == "error"}
    apart, reasons = [], []
    for rank, one in enumerate(said):
        if one.get("error"):
            reasons.append(f"rank {rank}: {one['error']}")
        errors = {_key(found) for found in one.get("findings", ()) if found["severity"] == "error"}
        if not one.get("error") and errors != own:
            apart.append(rank)
            new = ", ".join(sorted(errors - own)) or "nothing"
            gone = ", ".join(sorted(own - errors))
            reasons.append(f"rank {rank} finds {new}{f' and not {gone}' if gone else ''}, which differs from rank 0")
    title = "All ranks find the same"
    if apart:
        message = f"{told_ranks(apart)} of {len(said)} train otherwise than rank 0: {'; '.join(reasons)}"
        report.findings.append(finding("LA603", "all", message, count=len(apart)))
        report.checks.append(Check("ranks", title, "fail", f"LA603: {'; '.join(reasons)}"))
    elif reasons:
        report.checks.append(Check("ranks", title, "skip", "; ".join(reasons)))
    else:
        report.checks.append(Check("ranks", title, "pass", f"{len(said)} ranks"))


def _key(found: Mapping[str, Any]) -> str:
    return f"{found['code']} on {found['stream']}"
