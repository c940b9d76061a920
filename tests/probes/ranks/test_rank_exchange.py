"""Ranks hear from each other through the launcher's store, and name the one that does not answer."""

import json
import os
import threading

import forked_ranks
import pytest
from ports import held_port
from rank_pairs import exchanges, launched

from probes.errors import CannotRunError, UsageError
from probes.ranks import MissingRanksError, RankExchange, told_ranks


@pytest.fixture
def port():
    with held_port() as port:
        yield port


@pytest.fixture
def pair():
    return exchanges()


def test_payloads_arrive_in_the_order_of_the_ranks_and_the_verdict_on_all(pair):
    first, second = pair
    assert second.gather({"rank": 1, "text": "ü\n"}) is None
    assert first.gather({"rank": 0}) == [{"rank": 0}, {"rank": 1, "text": "ü\n"}]
    heard = []
    other = threading.Thread(target=lambda: heard.append(second.share()))
    other.start()
    assert first.share({"exit": 1}) == {"exit": 1}
    other.join()
    assert heard == [{"exit": 1}]


def test_rounds_do_not_mix(pair):
    first, second = pair
    for turn in range(3):
        second.gather({"turn": turn})
    assert [first.gather({"turn": turn})[1]["turn"] for turn in range(3)] == [0, 1, 2]


def test_the_first_claim_stands(pair):
    first, second = pair
    assert first.claimed("failed") is None
    assert second.claim("failed", {"rank": 1}) == {"rank": 1}
    assert first.claim("failed", {"rank": 0}) == {"rank": 1}
    assert first.claimed("failed") == second.claimed("failed") == {"rank": 1}


def test_whoever_waits_can_be_called_away(pair):
    def watch():
        raise KeyError("another rank failed")

    with pytest.raises(KeyError):
        pair[0].wait("nothing", watch=watch)


def test_a_payload_of_several_mebibytes_arrives(pair):
    first, second = pair
    second.gather({"text": "x" * (4 << 20)})
    assert len(first.gather({})[1]["text"]) == 4 << 20


def test_a_rank_that_hands_in_nothing_is_named_in_time():
    ranks = exchanges(3, come=2)
    ranks[1].gather({"rank": 1})
    with pytest.raises(MissingRanksError, match=r"rank 2 of 3 handed in nothing within 0\.3 s") as caught:
        ranks[0].gather({"rank": 0}, timeout=0.3)
    assert caught.value.missing == (2,)
    assert caught.value.received == {0: {"rank": 0}, 1: {"rank": 1}}


def test_a_first_rank_that_says_nothing_is_named_on_the_others():
    _first, second = exchanges(timeout=0.3)
    with pytest.raises(MissingRanksError, match="rank 0 of 2"):
        second.share()


def test_a_late_rank_is_waited_for(pair):
    first, second = pair
    timer = threading.Timer(0.3, second.gather, [{"late": True}])
    timer.start()
    assert first.gather({}) == [{}, {"late": True}]
    timer.join()


def test_a_restarted_run_does_not_read_what_the_last_one_left(port):
    old = [RankExchange.from_environment(5, environ=launched(rank, 2, port)) for rank in (0, 1)]
    old[1].gather({"attempt": 0})
    again = [
        RankExchange.from_environment(5, environ=launched(rank, 2, port, TORCHELASTIC_RESTART_COUNT="1"))
        for rank in (0, 1)
    ]
    again[1].gather({"attempt": 1})
    assert again[0].gather({}) == [{}, {"attempt": 1}]


def test_the_next_command_of_one_launch_does_not_read_what_the_last_one_left(port):
    first = [RankExchange.from_environment(5, environ=launched(rank, 2, port)) for rank in (0, 1)]
    second = [RankExchange.from_environment(5, environ=launched(rank, 2, port)) for rank in (0, 1)]
    first[1].gather({"command": 1})
    assert second[0].take("1/gather", 1) is None
    second[1].gather({"command": 2})
    assert second[0].gather({}) == [{}, {"command": 2}]


def test_a_rank_that_has_not_come_is_absent():
    assert [exchange.absent() for exchange in exchanges(3)] == [[], [], []]
    (alone,) = exchanges(3, come=1)
    assert alone.absent() == [1, 2]


def test_two_rooms_of_one_process_are_apart(port):
    rooms = {
        (room, rank): RankExchange.from_environment(5, room=room, environ=launched(rank, 2, port))
        for room in ("one", "other")
        for rank in (0, 1)
    }
    rooms["other", 1].gather({"room": "other"})
    rooms["one", 1].gather({"room": "one"})
    assert rooms["one", 0].gather({})[1] == {"room": "one"}
    assert rooms["other", 0].gather({})[1] == {"room": "other"}


@pytest.mark.parametrize("gone", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_without_a_launcher_there_are_no_ranks(gone):
    environ = launched(0, 2, 29500)
    del environ[gone]
    assert RankExchange.from_environment(environ=environ) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK='-1' is no whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no whole number"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT='x' is no whole number"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_variables_that_contradict_each_other_are_bad_usage(changed, told):
    with pytest.raises(UsageError, match=told):
        RankExchange.from_environment(environ=launched(0, 2, 29500) | changed)


def test_a_store_that_does_not_answer_is_one_sentence(port):
    with pytest.raises(CannotRunError, match=rf"rank 1 on .* cannot reach the other ranks at 127\.0\.0\.1:{port}"):
        RankExchange.from_environment(1, environ=launched(1, 2, port))


@pytest.mark.parametrize(
    ("ranks", "told"),
    [([1], "rank 1"), ([1, 3], "ranks 1 and 3"), ([*range(10)], "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more")],
)
def test_ranks_are_told_shortly(ranks, told):
    assert told_ranks(ranks) == told


SCRIPT = """
import json, os, sys, torch
import torch.distributed as dist
from datetime import timedelta
from probes.ranks import RankExchange

early = RankExchange.from_environment(60, room="early") if os.environ["WHEN"] == "before" else None
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
exchange = early or RankExchange.from_environment(60, room="late")
count = torch.tensor([1.0 + exchange.rank])
dist.all_reduce(count)
first = exchange.gather({"rank": exchange.rank, "sum": float(count)})
dist.barrier()
group = dist.new_group()
dist.all_reduce(count, group=group)
dist.destroy_process_group()
verdict = exchange.share({"payloads": first, "sum": float(count)})
print(json.dumps([exchange.rank, verdict]), flush=True)
"""


#: Two ranks without an agent: the first one serves the store.
NO_AGENT = """
import os, runpy, sys
if not os.fork():
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "1"
runpy.run_path(sys.argv[1], run_name="__main__")
if os.environ["RANK"] == "0":
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("agent", ["torchrun", "none"])
def test_a_script_with_a_group_of_its_own_is_not_disturbed(tmp_path, port, agent, warm):
    """Connected before its group is made or after; where torchrun serves the store, and where the first rank does."""
    script, alone = tmp_path / "script.py", tmp_path / "alone.py"
    script.write_text(SCRIPT)
    alone.write_text(NO_AGENT)
    base = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "MASTER_"))}
    if agent == "torchrun":
        done = warm.python(forked_ranks.__file__, script, cwd=tmp_path, env=base | {"WHEN": "after"})
    else:
        environ = base | {"WHEN": "before"} | launched(0, 2, port)
        done = warm.python(alone, script, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    told = dict(json.loads(line) for line in done.stdout.splitlines())
    payloads = [{"rank": rank, "sum": 3.0} for rank in (0, 1)]
    assert told == {rank: {"payloads": payloads, "sum": 6.0} for rank in (0, 1)}
