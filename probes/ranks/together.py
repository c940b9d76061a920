"""The end of a run of several ranks, which is one: one exit code, and one error where it failed.

Rank 0 tells it, or where that one is silent another, and only once. Where the launcher stops the ranks because one
of them ended, it is told which one has left nothing behind.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from ..errors import CannotRunError, RunFailedError
from .exchange import MissingRanksError, RankExchange, told_ranks
from .launcher import deaf, leave_reason, stoppable, told_code
from .session import FAILED, REPORTS, STOPPED, RunOverError, Session

__all__ = ["together"]

#: Seconds that a failure has to reach rank 0.
GRACE = 10.0
#: Seconds that a rank has to answer once the launcher stops all of them; it kills them after 30.
ANSWER = 5.0
#: Seconds to see which ranks fail for the same reason.
ALIKE = 5.0
#: What ranks leave for each other at the end; and which one tells how a run that failed has ended.
OVER, VERDICT, TOLD = "over", "verdict", "told"


def together(exchange: RankExchange, work: Callable[[Session], int], *, verbose: bool = False) -> int:
    """Do ``work`` on every rank; the exit code of rank 0 is that of all.

    ``work`` returns an exit code on rank 0, where it shows and writes; elsewhere what it returns is not looked at.

    Raises:
        RunFailedError: on the rank that tells it for all, whatever ended the run; that rank's number stands in it.
    """
    session = Session(exchange)
    with stoppable(session.stop):
        try:
            return _done(session, work, verbose=verbose)
        except RunOverError:
            return _over(session)
        except CannotRunError as error:
            _alone(error)


def _done(session: Session, work: Callable[[Session], int], *, verbose: bool) -> int:
    try:
        code = _agreed(session, work(session))
        session.end()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever ends a rank ends the run
        if verbose:
            traceback.print_exception(error, file=sys.stderr)
        session.fail(error)
    return code


def _agreed(session: Session, code: int) -> int:
    """The exit code of rank 0, on every rank."""
    exchange = session.exchange
    if exchange.rank == 0:
        leave_reason(code, told_code(code))
        deaf()
        exchange.put(VERDICT, {"exit_code": code})
        exchange.linger(VERDICT)
        return code
    try:
        # rank 0 may have been slower by one time limit, and wait for another rank for one more
        patience = 2 * exchange.timeout + GRACE
        (verdict,) = exchange.collect(VERDICT, ranks=[0], timeout=patience, watch=session.watch)
    except MissingRanksError as error:
        session.fail(error, "rank 0 made no report: ended or hangs")
    deaf()
    leave_reason(verdict["exit_code"], told_code(verdict["exit_code"]))
    exchange.put(f"{VERDICT}/heard", {})
    return verdict["exit_code"]


def _over(session: Session) -> int:
    """End a run that failed: rank 0 tells it, and where that one is silent the first that waits for it in vain."""
    exchange = session.exchange
    deaf()
    try:
        exchange.put(OVER, {"cause": session.cause})
        if session.stopped:
            exchange.claim(STOPPED, {"by": exchange.rank})
        failure = exchange.claimed(FAILED) or _who_ended(session)
        told, code = _told(exchange, failure), failure["exit_code"]
        leave_reason(code, told)
        tells = _tells(session, code)
    except CannotRunError as error:
        return _alone(error)
    if tells:
        raise RunFailedError(told, code)
    return code


def _tells(session: Session, code: int) -> bool:
    """Whether it falls to this rank to tell how the run ended."""
    exchange = session.exchange
    if exchange.rank != 0:
        with suppress(MissingRanksError):
            exchange.wait(VERDICT, ranks=[0], timeout=ANSWER if session.stopped else GRACE)
            exchange.put(f"{VERDICT}/heard", {})
            return False
    mine = exchange.claim(TOLD, {"by": exchange.rank})["by"] == exchange.rank
    if exchange.rank == 0:
        exchange.put(VERDICT, {"exit_code": code})
        exchange.linger(VERDICT)
    return mine


def _told(exchange: RankExchange, failure: Mapping[str, Any]) -> str:
    """The failure with the ranks that it happened to, where it did not happen to the run as a whole."""
    if not failure["cause"] or exchange.world == 1:
        return failure["message"]
    with suppress(MissingRanksError):
        exchange.wait(OVER, timeout=ALIKE)
    ends = {rank: exchange.take(OVER, rank) for rank in range(exchange.world)}
    same = {rank for rank, end in ends.items() if end and end["cause"] == failure["cause"]} | {failure["by"]}
    who = told_ranks(sorted(same)) if len(same) < exchange.world else "all ranks"
    return f"{who}: {failure['message']}"


def _alone(error: CannotRunError) -> NoReturn:
    """The store is gone, and with it the other ranks: each one that is left says so itself."""
    raise RunFailedError(str(error), error.exit_code) from error


def _who_ended(session: Session) -> dict[str, Any]:
    """Why a launcher stopped the run: the ranks that have neither handed in a report nor been stopped themselves."""
    exchange = session.exchange
    try:
        exchange.wait(OVER, timeout=ANSWER if session.stopped else exchange.timeout)
        silent: list[int] = []
    except MissingRanksError as error:
        silent = [rank for rank in error.missing if exchange.take(REPORTS, rank) is None]
    if silent:
        message = f"{told_ranks(silent)} of {exchange.world} ended before handing in a report"
    else:
        message = "stopped by the launcher (SIGTERM) before every rank had handed in its report"
    return {"by": exchange.rank, "cause": "", "message": message, "exit_code": CannotRunError.exit_code}
