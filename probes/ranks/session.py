"""A run of several ranks: they start together and hear of each other's failures.

A rank that fails claims the failure of the run; the others stop at their next step.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from ..errors import CannotRunError, UsageError, ending
from .exchange import FOREIGN, MissingRanksError, RankExchange, told_ranks

if TYPE_CHECKING:
    import torch

__all__ = ["RunOverError", "Session"]

#: Seconds by which a collective that waits in vain ends before those who wait for its rank.
FIRST = 2.0
#: What ranks leave for each other: marks of every rank; and of all the first failure, stop and exception of a loss.
READY, TURN, REPORTS = "ready", "turn", "reports"
FAILED, STOPPED, RAISED = "failed", "stopped", "raised"
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
        if failure is not None and failure["step"] >= self.steps:
            return
        if self.stopped or failure is not None or self.exchange.claimed(STOPPED):
            raise RunOverError

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
            told = f"{told_ranks(error.missing)} did not {what} within {limit:g} s: {cause}"
            absent = self.exchange.absent()
            self.fail(error, f"{told_ranks(absent)} did not start within {limit:g} s: {FOREIGN}" if absent else told)

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
