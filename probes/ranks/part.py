"""One rank's part in preflight: its own shard, the batch that all ranks share, and one report of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..checks.engine import default_loss
from ..checks.preflight import Plan
from ..host.place import Place
from ..models import Batch
from ..records.report import Report
from .lockstep import Lockstep, called_once
from .same_batch import watched
from .session import REPORTS, Session
from .shards import join_ranks, rank_payload

__all__ = ["Part"]


class Part:
    """What preflight does beside its checks where it runs on several ranks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._same: dict[str, Any] = {}

    @property
    def place(self) -> Place:
        """Of this rank."""
        return self._session.exchange.place

    def watching(self, progress: Callable[[str], None]) -> Callable[[str], None]:
        """``progress``, which also ends this rank's work once another rank has failed."""

        def step(text: str) -> None:
            self._session.step()
            progress(text)

        return step

    def begin(self, plan: Plan, same_batch: Callable[[], Batch]) -> None:
        """Join the ranks, call a user's loss in step from here on, and run it on the batch that all ranks share.

        That comes first: a loss that counts its calls must have counted the same on all.

        Raises:
            RunOverError: another rank failed.
            CannotRunError: the ranks cannot be joined.
        """
        self._session.begin(next(plan.model.parameters()).device)
        if plan.loss is not None:
            plan.loss = Lockstep(self._session, plan.loss)
        loss = plan.loss or default_loss(plan.adapter, plan.policy)
        self._same = watched(plan.model, plan.adapter, same_batch, loss, plan.options, plan.seed)

    def finish(self, plan: Plan, report: Report) -> None:
        """Hand in the report; on rank 0, wait for those of the others and join them to it.

        Raises:
            RunOverError: another rank failed, or hands in nothing.
        """
        exchange = self._session.exchange
        exchange.put(REPORTS, rank_payload(report, exchange.rank, self._same))
        if isinstance(plan.loss, Lockstep):
            plan.loss.finish(partial(called_once, plan.model, plan.adapter, plan.batch))
        if exchange.rank == 0:
            self._session.wait(REPORTS, "hand in a report")
            join_ranks(report, exchange.collect(REPORTS), plan.keep)
