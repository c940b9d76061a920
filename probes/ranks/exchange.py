"""The ranks' exchange: small payloads through the store of the launcher, never through a collective.

A collective waits for every rank and names none. The store is asked rank by rank, so that one which died or hangs
is named once the time is up. It is a client connection of our own, under a prefix of our own: whether the process
has a group, makes one later or never does, makes no difference, and no key of its is touched.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from ..errors import CannotRunError, first_line
from ..host.place import Place, environment_place, whole_number

__all__ = [
    "DEFAULT_TIMEOUT",
    "FOREIGN",
    "MissingRanksError",
    "RankExchange",
    "told_ranks",
]

#: Seconds that ranks wait for each other where nobody says otherwise.
DEFAULT_TIMEOUT = 600.0
#: Seconds between two looks at the store.
PAUSE = 0.05
#: Seconds that a rank which serves the store waits for the others to have heard its last word.
LINGER = 10.0


#: What every rank leaves as it comes.
HERE = "here"
#: What to do where a launcher's variables are those of another program.
FOREIGN = "where a program that itself is a rank has started this command, start it as env -u RANK loss-align ..."


class MissingRanksError(CannotRunError):
    """Ranks that handed in nothing in time.

    Attributes:
        missing: their numbers.
        received: what the others handed in, by rank.
    """

    def __init__(self, message: str, missing: Sequence[int], received: Mapping[int, dict[str, Any]]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.received = dict(received)


class RankExchange:
    """Payloads between the ranks of one run.

    Every rank makes the same calls in the same order, as with collectives; but a rank waits for no other than the
    one it hears from. Payloads are mappings of JSON values, of at most a few MiB.

    Attributes:
        place: of this process.
        timeout: seconds to wait for a rank.
        store: of all ranks, for a group of our own.
    """

    def __init__(self, place: Place, timeout: float, store: Any, *, serves: bool) -> None:
        self.place, self.timeout, self.store = place, timeout, store
        self._serves = serves
        self._rounds = 0

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.place.rank

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self.place.world

    @classmethod
    def from_environment(
        cls,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        room: str = "reports",
        environ: Mapping[str, str] | None = None,
    ) -> RankExchange | None:
        """Connect to the other ranks; None where no launcher says that there are any.

        Args:
            timeout: seconds to wait for a rank, and for the store.
            room: keeps two exchanges of one process apart.
            environ: instead of the process's own environment.

        Raises:
            UsageError: the launcher's variables contradict each other.
            CannotRunError: the store does not answer.
        """
        environ = os.environ if environ is None else environ
        place = environment_place(environ)
        if place is None:
            return None
        address, port = environ["MASTER_ADDR"], whole_number(environ, "MASTER_PORT")
        # torchrun serves the store itself; elsewhere the first rank does, and shares it with a group made later
        serves = place.rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
        try:
            from torch.distributed import PrefixStore, TCPStore

            store = TCPStore(
                address,
                port,
                None,
                serves,
                timedelta(seconds=timeout),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except (ImportError, RuntimeError, ValueError) as error:
            raise CannotRunError(
                f"rank {place.rank} on {socket.gethostname()} cannot reach the other ranks at {address}:{port} "
                f"(MASTER_ADDR, MASTER_PORT): {first_line(error)}; {FOREIGN}"
            ) from error
        # neither a restarted run nor the next command of the same one must read what the last one left
        room = f"loss-alignment/{room}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        start = store.add(f"{room}/starts/{place.rank}", 1)
        exchange = cls(place, timeout, PrefixStore(f"{room}/{start}", store), serves=serves)
        exchange.put(HERE, {})
        return exchange

    def absent(self) -> list[int]:
        """The ranks that have not come at all. Never waits."""
        return [rank for rank in range(self.world) if not self._left(HERE, rank)]

    def gather(self, payload: Mapping[str, Any], timeout: float | None = None) -> list[dict[str, Any]] | None:
        """Hand in a payload; on rank 0 the payloads of all ranks, in their order, elsewhere None at once.

        Raises:
            MissingRanksError: on rank 0, names the ranks that handed in nothing in time.
            CannotRunError: the store is gone.
        """
        name = self._round("gather")
        self.put(name, payload)
        if self.rank != 0:
            return None
        return self.collect(name, timeout=timeout)

    def share(self, payload: Mapping[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """What rank 0 says, on every rank; the others' ``payload`` is not looked at.

        Raises:
            MissingRanksError: rank 0 said nothing in time.
            CannotRunError: the store is gone.
        """
        name = self._round("share")
        if self.rank == 0:
            self.put(name, payload or {})
        said = self.collect(name, ranks=[0], timeout=timeout)[0]
        self.put(f"{name}/heard", {})
        self.linger(name)
        return said

    def linger(self, name: str) -> None:
        """Where the store ends with this process: wait until the others have heard what it said under a name."""
        if self._serves:
            with suppress(MissingRanksError):
                others = [rank for rank in range(self.world) if rank != self.rank]
                self.wait(f"{name}/heard", ranks=others, timeout=min(self.timeout, LINGER))

    # -- the same by name, for protocols of one's own ------------------------------------------------------

    def put(self, name: str, payload: Mapping[str, Any]) -> None:
        """Leave a payload under a name."""
        text = json.dumps(dict(payload))
        self._asked(lambda: self.store.set(f"{name}/{self.rank}", text))
        self._asked(lambda: self.store.add(f"{name}/{self.rank}/there", 1))
        self._asked(lambda: self.store.add(f"{name}/there", 1))

    def take(self, name: str, rank: int) -> dict[str, Any] | None:
        """What a rank left under a name; None if nothing yet. Never waits."""
        if not self._left(name, rank):
            return None
        return json.loads(self._asked(lambda: self.store.get(f"{name}/{rank}")))

    def complete(self, name: str) -> bool:
        """Whether every rank has left a payload under a name. Never waits."""
        return self._asked(lambda: self.store.add(f"{name}/there", 0)) >= self.world

    def claim(self, name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Leave a payload under a name unless a rank has before; what the first one left."""
        text = json.dumps(dict(payload))
        first = self._asked(lambda: self.store.compare_set(name, "", text))
        self._asked(lambda: self.store.add(f"{name}/there", 1))
        return json.loads(first)

    def claimed(self, name: str) -> dict[str, Any] | None:
        """What the first rank to claim a name left; None if none has. Never waits."""
        if self._asked(lambda: self.store.add(f"{name}/there", 0)) == 0:
            return None
        return json.loads(self._asked(lambda: self.store.get(name)))

    def wait(
        self,
        name: str,
        *,
        ranks: Sequence[int] | None = None,
        timeout: float | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until ``ranks`` (default: all) have left something under a name.

        ``watch`` is called while it waits, and may raise.

        Raises:
            MissingRanksError: names the ranks that left nothing in time.
            CannotRunError: the store is gone.
        """
        wanted = range(self.world) if ranks is None else ranks
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while not (self.complete(name) if ranks is None else all(self._left(name, rank) for rank in wanted)):
            if time.monotonic() > deadline:
                missing = [rank for rank in wanted if not self._left(name, rank)]
                if not missing:  # a rank has died between its mark and its count
                    return
                received = {rank: found for rank in wanted if (found := self.take(name, rank)) is not None}
                told = f"{told_ranks(missing)} of {self.world} handed in nothing within {limit:g} s: ended or hangs"
                raise MissingRanksError(told, missing, received)
            watch()
            time.sleep(PAUSE)

    def collect(
        self,
        name: str,
        *,
        ranks: Sequence[int] | None = None,
        timeout: float | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """What ``ranks`` (default: all) left under a name, in that order; waits for them as ``wait`` does."""
        self.wait(name, ranks=ranks, timeout=timeout, watch=watch)
        return [found for rank in ranks or range(self.world) if (found := self.take(name, rank)) is not None]

    def _left(self, name: str, rank: int) -> bool:
        return self._asked(lambda: self.store.add(f"{name}/{rank}/there", 0)) > 0

    def _round(self, kind: str) -> str:
        self._rounds += 1
        return f"{self._rounds}/{kind}"

    def _asked(self, question: Callable[[], Any]) -> Any:
        """Ask the store; that it has gone away is one sentence."""
        try:
            return question()
        except RuntimeError as error:
            raise CannotRunError(f"rank {self.rank} lost the other ranks' store: {first_line(error)}") from error


def told_ranks(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 1 and 3``, ``ranks 1, 2, 3 and 5 more``."""
    words = [str(rank) for rank in ranks[:8]]
    if len(ranks) > len(words):
        words.append(f"{len(ranks) - len(words)} more")
    if len(words) == 1:
        return f"rank {words[0]}"
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"
