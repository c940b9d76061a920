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
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import CannotRunError, UsageError

__all__ = ["ALONE", "DEFAULT_TIMEOUT", "MissingRanksError", "Place", "RankExchange", "environment_place", "told_ranks"]

#: Seconds that ranks wait for each other where nobody says otherwise.
DEFAULT_TIMEOUT = 600.0
#: What torchrun, accelerate and deepspeed set. A cluster that names its *machines* by RANK sets no LOCAL_RANK.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: Seconds between two looks at the store.
PAUSE = 0.05
#: Seconds that a rank which serves the store waits for the others to have heard its last word.
LINGER = 10.0


@dataclass(frozen=True)
class Place:
    """The number of a process among all, how many there are, and its number on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


#: A process that no launcher has put beside others.
ALONE = Place()


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
        address, port = environ["MASTER_ADDR"], _number(environ, "MASTER_PORT")
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
                f"(MASTER_ADDR, MASTER_PORT): {_first_line(error)}"
            ) from error
        attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a restarted run must not read what the last one left
        prefixed = PrefixStore(f"loss-alignment/{room}/{attempt}", store)
        return cls(place, timeout, prefixed, serves=serves)

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
            raise CannotRunError(f"rank {self.rank} lost the other ranks' store: {_first_line(error)}") from error


def environment_place(environ: Mapping[str, str] | None = None) -> Place | None:
    """Where a launcher has put this process; None without a launcher.

    Raises:
        UsageError: its variables are no numbers, or contradict each other.
    """
    environ = os.environ if environ is None else environ
    if not all(environ.get(name) for name in VARIABLES):
        return None
    place = Place(*(_number(environ, name) for name in VARIABLES[:3]))
    if place.rank >= place.world:
        raise UsageError(f"RANK={place.rank} is not below WORLD_SIZE={place.world}: start the run with torchrun")
    return place


def told_ranks(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 1 and 3``, ``ranks 1, 2, 3 and 5 more``."""
    words = [str(rank) for rank in ranks[:8]]
    if len(ranks) > len(words):
        words.append(f"{len(ranks) - len(words)} more")
    if len(words) == 1:
        return f"rank {words[0]}"
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is no whole number: start the run with torchrun")
    return int(text)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
