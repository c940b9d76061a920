"""Ranks on a bad day, simulated: the protocol is the real one; time, store, turns and faults all come from a seed.

Each rank is a thread of which one runs at a time; another's turn comes at any question to the store. Time is what a
rank sleeps: ten minutes of waiting take none. So a run is a function of its seed and its fault, and what it shows is
shown again.
"""

import contextlib
import random
import threading
from dataclasses import dataclass
from unittest import mock

from probes.errors import CannotRunError, RunFailedError, UsageError, ending
from probes.host.place import Place
from probes.ranks import exchange as exchange_module
from probes.ranks import together as together_module
from probes.ranks.exchange import HERE, RankExchange
from probes.ranks.lockstep import Lockstep
from probes.ranks.session import REPORTS
from probes.ranks.shards import join_ranks, rank_payload
from probes.ranks.together import together
from probes.records.report import Check, Report

#: Seconds, of no real clock.
TIMEOUT = 30.0
#: Nothing that ends may take longer.
LONGEST = 12 * TIMEOUT
#: What may go wrong with one rank, at one of its questions to the store.
KINDS = (
    "dies",
    "hangs",
    "is slow",
    "is too slow",
    "raises",
    "is interrupted",
    "is told to stop",
    "jumps ahead in time",
)
#: What may go wrong with its work, whenever.
OUTCOMES = ("disagrees", "fails its check")
LATE = {"is slow": TIMEOUT / 100, "is too slow": 3 * TIMEOUT}


@dataclass(frozen=True)
class Fault:
    """``rank`` ``kind`` at its question ``at``, as in ``rank 1 dies at 12``."""

    rank: int
    kind: str
    at: int = 0

    def __str__(self):
        return f"rank {self.rank} {self.kind}" + (f" at {self.at}" if self.kind in KINDS else "")


class Gone(BaseException):
    """This rank is no more: nothing that it does from here on happens."""


class Rank(threading.Thread):
    """One rank: runs when it is given its turn, until it asks the store or sleeps."""

    def __init__(self, world, number, work):
        super().__init__(daemon=True)
        self.world, self.number, self.work = world, number, work
        self.turn, self.wake, self.ahead = threading.Semaphore(0), 0.0, 0.0
        self.gone = self.hung = self.over = self.working = self.deaf = False
        self.asked = 0
        self.session = self.result = None

    def run(self):
        self.turn.acquire()
        with contextlib.suppress(Gone):
            try:
                self.result = together(self.exchange(), self.remembered)
            except Gone:
                raise
            except BaseException as error:  # noqa: BLE001 - what comes out is judged
                self.result = error
        self.over = True
        self.world.turn.release()

    def exchange(self):
        place = Place(self.number, self.world.size, self.number)
        exchange = RankExchange(place, TIMEOUT, Store(self), serves=self.number == 0 and self.world.serves)
        exchange.put(HERE, {})
        return exchange

    def remembered(self, session):
        self.session, self.working = session, True
        try:
            return self.work(self, session)
        finally:
            self.working = False

    def pause(self, seconds=0.0):
        """Let others have their turn; come back no sooner than in ``seconds``."""
        if self.gone:
            raise Gone
        self.wake = self.world.now + seconds
        self.world.turn.release()
        self.turn.acquire()
        if self.gone:
            raise Gone


class Store:
    """What a TCPStore does, of one world; a question is where things go wrong."""

    def __init__(self, rank):
        self.rank = rank

    def _asked(self):
        rank, world = self.rank, self.rank.world
        rank.asked += 1
        for fault in world.faults:
            if fault.rank == rank.number and (fault.at == rank.asked or (fault.kind in LATE and rank.asked > fault.at)):
                _happens(fault.kind, rank)
        if world.random.random() < 0.3:
            rank.pause()
        server = world.ranks[0]
        if world.serves and (server.gone or server.over):
            raise RuntimeError("Connection reset by peer")

    def set(self, key, value):
        self._asked()
        self.rank.world.held[key] = value

    def get(self, key):
        self._asked()
        return self.rank.world.held[key]

    def add(self, key, number):
        self._asked()
        total = int(self.rank.world.held.get(key, 0)) + number
        self.rank.world.held[key] = str(total)
        return total

    def compare_set(self, key, expected, value):
        self._asked()
        return self.rank.world.held.setdefault(key, value)


def _happens(kind, rank):
    if kind == "dies":
        rank.gone = True
        raise Gone
    if kind == "hangs":
        rank.hung = True
        rank.pause()
    if kind in LATE and rank.world.random.random() < 0.1:
        rank.pause(LATE[kind])
    if kind == "jumps ahead in time":
        rank.ahead += 1e5
    if kind == "raises" and rank.working:
        raise UsageError("planted")
    if kind == "is interrupted":
        raise KeyboardInterrupt
    if kind == "is told to stop" and rank.session is not None and not rank.deaf:
        rank.deaf = True
        rank.session.stop()


class World:
    """Some ranks, their store, and their time."""

    def __init__(self, size, seed, faults, *, serves):
        self.size, self.faults, self.serves = size, faults, serves
        self.random = random.Random(seed)
        self.now, self.held = 0.0, {}
        self.turn = threading.Semaphore(0)
        calls = [self.random.randrange(4) for _ in range(size)]
        self.ranks = [Rank(self, number, _work(calls[number])) for number in range(size)]

    def run(self):
        """Until every rank is over, or nobody will ever move again."""
        for rank in self.ranks:
            rank.start()
        with mock.patch.object(exchange_module, "time", self), mock.patch.object(together_module, "deaf", self.deaf):
            while waiting := [rank for rank in self.ranks if not (rank.over or rank.hung)]:
                self.now = max(self.now, min(rank.wake for rank in waiting))
                if self.now > LONGEST * (1 + sum(fault.kind == "is too slow" for fault in self.faults)):
                    break
                self._turn_of(self.random.choice([rank for rank in waiting if rank.wake <= self.now]))
        for rank in self.ranks:
            while not rank.over:
                rank.gone = True
                self._turn_of(rank)
        return self

    def _turn_of(self, rank):
        self.current = rank
        rank.turn.release()
        self.turn.acquire()

    # -- the clock of whoever asks, and its ears ----------------------------------------------------

    def deaf(self):
        self.current.deaf = True

    def monotonic(self):
        return self.now + self.current.ahead

    def sleep(self, seconds):
        self.current.pause(seconds)


def _work(calls):
    """What a rank of preflight does between its start and its report; its loss is called ``calls`` times."""

    def work(rank, session):
        exchange, faults = session.exchange, [f.kind for f in rank.world.faults if f.rank == rank.number]
        for _ in range(3):
            session.step()
        exchange.put("ready", {})
        session.wait("ready", "load its model and batch")
        loss = Lockstep(session, lambda: None)
        for _ in range(calls):
            loss()
        decision = {
            "pairing": "direct" if "disagrees" in faults else "shifted",
            "path": "",
            "convention": "",
            "verified": True,
        }
        report = Report(checks=[Check("text-loss", "", "pass", "")], streams=STREAMS, decision={"text": decision})
        if "fails its check" in faults:
            report.checks = [Check("text-loss", "", "fail", "planted")]
        exchange.put(REPORTS, rank_payload(report, exchange.rank, {"streams": {}, "codes": [], "raised": ""}))
        loss.finish(lambda own: own())
        if exchange.rank == 0:
            session.wait(REPORTS, "hand in a report")
            join_ranks(report, exchange.collect(REPORTS), None)
        return report.exit_code

    return work


STREAMS = {"text": {"rows": 8, "expected": 8, "supervised": 8, "weight_sum": 1.0}}


# -- what must hold --------------------------------------------------------------------------------------


def wrong(world):
    """What a run shows that none may show; empty if it was survived."""
    left = [rank for rank in world.ranks if not (rank.gone and rank.result is None) and not rank.hung]
    ended = {rank.number: rank.result for rank in left}
    for number, result in ended.items():
        if not isinstance(result, (int, RunFailedError, KeyboardInterrupt, CannotRunError)):
            return f"rank {number} ended in {result!r}"
    if any(rank.gone and not _dies(world, rank) and not rank.hung for rank in world.ranks):
        return f"a rank was still waiting after {world.now:g} s"
    codes = {n: result if isinstance(result, int) else ending(result)[1] for n, result in ended.items()}
    told = [result for result in ended.values() if isinstance(result, (RunFailedError, CannotRunError))]
    handed_in = {n for n in range(world.size) if f"{REPORTS}/{n}" in world.held}
    if 0 in codes.values() and len(handed_in) < world.size:
        return f"exit code 0, and only ranks {sorted(handed_in)} handed in a report"
    if 0 in codes.values() and any(fault.kind in OUTCOMES for fault in world.faults):
        return "exit code 0, and a rank was wrong"
    lost = any("lost the other ranks' store" in str(one) for one in told)
    if len(told) > 1 and not lost:
        return f"told {len(told)} times: {[str(one) for one in told]}"
    decided = world.held.get("verdict/0")
    if len(set(codes.values())) > 1 and not lost and not decided:
        return f"exit codes {codes}"
    return _unnamed(world, told)


def _dies(world, rank):
    return any(fault.rank == rank.number and fault.kind == "dies" for fault in world.faults)


def _unnamed(world, told):
    """A rank that alone is at fault before its report stands in the sentence."""
    if len(world.faults) != 1 or not told or world.serves:
        return ""
    (fault,) = world.faults
    if fault.kind not in ("dies", "hangs", "raises") or f"rank {fault.rank}" in str(told[0]):
        return ""
    return f"{told[0]} does not name rank {fault.rank}"


# -- the days --------------------------------------------------------------------------------------------


def day(size, seed, faults=(), *, serves=False):
    """One run: what was wrong with it, empty if nothing."""
    return wrong(World(size, seed, faults, serves=serves).run())


def at_every_point(size, seed):
    """Every fault of every rank at every question of a run that nothing disturbs, and what is wrong with it."""
    quiet = World(size, seed, (), serves=False).run()
    assert not wrong(quiet), wrong(quiet)
    for rank in quiet.ranks:
        for kind in KINDS:
            for at in range(1, rank.asked + 1):
                yield Fault(rank.number, kind, at)
        for kind in OUTCOMES:
            yield Fault(rank.number, kind)


def drawn(seed):
    """A world of any size with up to two faults, from a seed alone."""
    draw = random.Random(seed)
    size = draw.randint(2, 4)
    kinds = [draw.choice((*KINDS, *OUTCOMES)) for _ in range(draw.randint(0, 2))]
    faults = tuple(Fault(draw.randrange(size), kind, draw.randint(1, 80)) for kind in kinds)
    return size, faults, draw.random() < 0.3


def days(runs, seed=0):
    """``runs`` of them, each its name and what was wrong: first every point of two ranks, then drawn ones."""
    done = 0
    for fault in at_every_point(2, seed):
        if done == runs // 2:
            break
        done += 1
        yield str(fault), day(2, seed, (fault,))
    for number in range(seed, seed + runs - done):
        size, faults, serves = drawn(number)
        name = f"{size} ranks, seed {number}: {', '.join(map(str, faults)) or 'nothing'}{' (own store)' * serves}"
        yield name, day(size, number, faults, serves=serves)


__all__ = ["KINDS", "OUTCOMES", "Fault", "at_every_point", "day", "days", "drawn"]
