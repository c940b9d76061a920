"""A run of several ranks: they start together, hear of each other's failures, and end with one exit code.

A rank that fails claims the failure of the run; the others stop at their next step. Rank 0 tells it, or where that
one is silent another, and only once. Where the launcher stops the ranks because one of them ended, it is told which
one has left nothing behind.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import CannotRunError, RunFailedError, UsageError, ending
from .exchange import MissingRanksError, RankExchange, told_ranks
from .launcher import deaf, leave_reason, stoppable

if TYPE_CHECKING:
    import torch

__all__ = ["RunOverError", "Session", "together"]

#: Seconds that a failure has to reach rank 0.
GRACE = 10.0
#: Seconds by which a collective that waits in vain ends before those who wait for its rank.
FIRST = 2.0
#: Seconds that a rank has to answer once the launcher stops all of them; it kills them after 30.
ANSWER = 5.0
#: Seconds to see which ranks fail for the same reason.
TOGETHER = 5.0
#: What ranks leave for each other: marks of every rank; and of all the first failure, stop and exception of a loss,
#: and which rank tells how the run ended.
READY, TURN, REPORTS, OVER, VERDICT = "ready", "turn", "reports", "over", "verdict"
FAILED, STOPPED, RAISED, TOLD = "failed", "stopped", "raised", "told"

#: What stands in the exceptions of collectives.
COLLECTIVES = ("gloo", "nccl", "c10d")


class RunOverError(BaseException):
    """The run is over, whatever this rank was doing. No code under test may take it for an error of its own."""


class Session:
    """One rank's part in the run.

    Attributes:
        exchange: with the other ranks.
        stopped: whether the launcher has told this rank to stop.
        cause: what this rank failed for by itself; empty if it has not.
        steps: of its work that this rank has begun.
    """

    def __init__(self, exchange: RankExchange) -> None:
        self.exchange = exchange
        self.stopped = False
        self.cause = ""
        self.steps = 0
        self._own_group = False

    def step(self) -> None:
        """Begin the next step of the work, unless another rank has failed in one that this rank has behind it.

        Up to there it may still fail for the same reason.

        Raises:
            RunOverError: it has.
        """
        self.steps += 1
        failure = self.exchange.claimed(FAILED)
        if failure is None or failure["step"] < self.steps:
            self.watch()

    def watch(self) -> None:
        """Stop here if another rank has failed or was stopped.

        Raises:
            RunOverError: it has.
        """
        if self.stopped or self.exchange.claimed(FAILED) or self.exchange.claimed(STOPPED):
            raise RunOverError

    def stop(self) -> NoReturn:
        """End this rank's work, as the launcher demands.

        Raises:
            RunOverError: always.
        """
        self.stopped = True
        raise RunOverError

    def wait(self, name: str, what: str, cause: str = "ended or hangs") -> None:
        """Wait until every rank has left something under a name; ``what`` and ``cause`` are said of ranks that do not.

        A collective of theirs that waits in vain has the time to say so first.

        Raises:
            RunOverError: another rank has failed, or does not come: the run's failure is claimed then.
        """
        limit = self.exchange.timeout
        try:
            self.exchange.wait(name, timeout=limit + FIRST, watch=self.watch)
        except MissingRanksError as error:
            self.fail(error, f"{told_ranks(error.missing)} did not {what} within {limit:g} s: {cause}")

    def fail(self, error: BaseException, told: str = "") -> NoReturn:
        """End the run because of ``error``, unless another rank has already; ``told`` is said instead of it.

        Raises:
            RunOverError: always.
        """
        message, code = ending(error)
        if told:
            message = told
        else:
            self.cause = message
        failure = {"by": self.exchange.rank, "cause": self.cause, "step": 0 if told else self.steps, "exit_code": code}
        before = self.exchange.claimed(RAISED)
        if before and before["message"] not in message:  # others may have waited for a collective that never came
            message += f"; before that the loss of rank {before['by']} raised {before['message']}"
        self.exchange.claim(FAILED, {**failure, "message": message})
        raise RunOverError from error

    def raised(self, error: Exception, turn: int) -> None:
        """Take note of an exception of the loss, in whose next call, ``turn``, other ranks may wait already.

        The first one is remembered: what other ranks say later may only follow from it. That of a collective follows
        from another rank itself: one that has gone on.

        Raises:
            RunOverError: the loss waited in a collective for ranks that had gone on.
        """
        exchange = self.exchange
        message = " ".join(f"{type(error).__name__}: {error}".split())
        if not any(word in message.lower() for word in COLLECTIVES):
            exchange.claim(RAISED, {"by": exchange.rank, "message": message})
            return
        gone = [rank for rank in range(exchange.world) if exchange.take(f"{TURN}/{turn}", rank) is not None]
        if gone:
            waited = f"the loss of rank {exchange.rank} waited in a collective for {told_ranks(gone)}, whose loss"
            if exchange.claimed(RAISED):
                self.fail(UsageError(), f"{waited} had ended")
            self.fail(UsageError(), f"{waited} did not call it: every rank must call the same collectives")

    def begin(self, device: torch.device) -> None:
        """Wait until every rank has its model and batch, then join them in a process group.

        A group that the user's code has made already is left as it is.

        Raises:
            RunOverError: another rank could not come so far.
            CannotRunError: the group cannot be made.
        """
        import torch
        import torch.distributed as dist

        exchange = self.exchange
        exchange.put(READY, {})
        self.wait(READY, "load its model and batch")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if dist.is_initialized():
            return
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("group", exchange.store),
                rank=exchange.rank,
                world_size=exchange.world,
                timeout=timedelta(seconds=exchange.timeout),
            )
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(f"the ranks cannot be joined in a process group: {error}") from error
        self._own_group = True

    def end(self) -> None:
        """Leave the process group that ``begin`` made."""
        import torch.distributed as dist

        if self._own_group and dist.is_initialized():
            dist.destroy_process_group()


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
        leave_reason(code, "findings or failed checks: the report of rank 0 tells them")
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
    leave_reason(verdict["exit_code"], "findings or failed checks: the report of rank 0 tells them")
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
        exchange.wait(OVER, timeout=TOGETHER)
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
