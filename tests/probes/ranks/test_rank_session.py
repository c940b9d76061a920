"""Ranks start, fail and end together: one exit code, one error, a loss called equally often. Ranks are threads here."""

import functools
import inspect
import threading

import pytest
import torch
from lm_batches import text_batch
from lm_tiny import tiny_model
from rank_pairs import exchanges

from probes.batches.chatml_file import shard_of
from probes.commands.device import pick_device
from probes.errors import CannotRunError, RunFailedError, UsageError
from probes.models import adapter_for
from probes.ranks import Place
from probes.ranks import together as end
from probes.ranks.exchange import FOREIGN
from probes.ranks.lockstep import Lockstep, called_once
from probes.ranks.session import RunOverError, Session
from probes.ranks.together import together


def outcomes(*works, ranks=None):
    """What ``together`` returns or raises on each rank."""
    ranks = ranks or exchanges(len(works))
    found = {}

    def run(exchange, work):
        try:
            found[exchange.rank] = together(exchange, work)
        except RunFailedError as error:
            found[exchange.rank] = error

    threads = [threading.Thread(target=run, args=pair) for pair in zip(ranks, works, strict=False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [found.get(rank) for rank in range(len(works))]


def ends(code):
    return lambda session: code


def raises(error):
    def work(session):
        raise error

    return work


def waits(session):
    """Work that looks around between its steps."""
    session.exchange.put("step", {})
    session.wait("step", "come to the step")
    return 0


def silent(session):
    threading.Event().wait(3)
    return 0


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_of_rank_0_is_that_of_all(code):
    assert outcomes(ends(code), ends(1 - code), ends(1 - code)) == [code] * 3


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (UsageError("no such file: a.json"), "no such file: a.json", 2),
        (CannotRunError("no CUDA"), "no CUDA", 3),
        (MemoryError("out of it"), "not enough memory for the run", 3),
        (ZeroDivisionError("planted"), "stopped by an error of its own (ZeroDivisionError: planted)", 3),
        (KeyboardInterrupt(), "interrupted", 3),
    ],
    ids=["usage", "cannot run", "memory", "a crash of ours", "interrupt"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_failure_is_told_once_with_its_rank(error, told, code, place):
    works = [waits, waits]
    works[place] = raises(error)
    first, second = outcomes(*works)
    assert str(first).startswith(f"rank {place}: {told}")
    assert first.exit_code == code
    assert second == code


def test_the_same_failure_of_several_ranks_is_told_once():
    first, *others = outcomes(*[raises(UsageError("nowhere")) for _ in range(3)])
    assert str(first) == "all ranks: nowhere"
    assert others == [2, 2]


def mistaken(step, delay):
    """Work of three steps that goes wrong in one of them, on a rank that is slower by ``delay`` seconds in each."""

    def work(session):
        for number in range(3):
            session.step()
            threading.Event().wait(delay)
            if number == step:
                raise UsageError("nowhere")
        session.exchange.put("step", {})
        session.wait("step", "come to the step")
        return 0

    return work


@pytest.mark.parametrize("delays", [(0, 0.2, 0.2), (0.2, 0, 0.1)], ids=["rank 0 first", "rank 0 last"])
def test_a_rank_that_is_behind_may_still_fail_for_the_same_reason(delays):
    first, *others = outcomes(*[mistaken(1, delay) for delay in delays])
    assert str(first) == "all ranks: nowhere"
    assert others == [2, 2]


def test_a_rank_that_has_taken_the_step_of_a_failure_is_not_counted():
    first, *others = outcomes(mistaken(None, 0.1), mistaken(1, 0), mistaken(1, 0.2))
    assert str(first) == "ranks 1 and 2: nowhere"
    assert others == [2, 2]


def test_a_lone_rank_names_none():
    assert [str(end) for end in outcomes(raises(UsageError("nowhere")))] == ["nowhere"]


def test_a_rank_that_does_not_come_is_named():
    first, second, _ = outcomes(waits, waits, silent, ranks=exchanges(3, timeout=0.5))
    assert str(first) == "rank 2 did not come to the step within 0.5 s: ended or hangs"
    assert second == 3


def test_where_rank_0_is_silent_another_says_so_and_rank_0_no_more(monkeypatch):
    monkeypatch.setattr(end, "GRACE", 0.2)

    def late(session):
        silent(session)
        session.watch()

    first, *others = outcomes(late, waits, waits, ranks=exchanges(3, timeout=0.3))
    assert first == 3
    (told,) = [end for end in others if isinstance(end, RunFailedError)]
    assert str(told) == "rank 0 did not come to the step within 0.3 s: ended or hangs"
    assert [end for end in others if end is not told] == [3]


def test_ranks_that_were_never_started_say_how_to_start_alone():
    """A training script under torchrun started the command on its first rank: nobody else will come."""
    (first,) = outcomes(waits, ranks=exchanges(3, timeout=0.3, come=1))
    assert str(first) == f"ranks 1 and 2 did not start within 0.3 s: {FOREIGN}"
    assert (first.exit_code, "env -u RANK loss-align" in FOREIGN) == (3, True)


# -- a loss in step ----------------------------------------------------------------------------------------


def called(times):
    """Per rank, how often its loss ran where it has ``times[rank]`` calls to make."""
    counts = [0] * len(times)

    def loss(rank):
        counts[rank] += 1

    def work(part):
        rank = part.exchange.rank
        stepped = Lockstep(part, loss)
        for _ in range(times[rank]):
            stepped(rank)
        stepped.finish(lambda own: own(rank))
        return 0

    assert outcomes(*[work for _ in times]) == [0] * len(times)
    return counts


@pytest.mark.parametrize("times", [(0, 0), (2, 2), (1, 4), (4, 1), (0, 3, 1)], ids=str)
def test_every_rank_calls_its_loss_as_often_as_the_busiest(times):
    assert called(times) == [max(times)] * len(times)


def test_standing_in_survives_a_loss_that_raises():
    def work(part):
        def loss():
            raise ValueError("planted")

        stepped = Lockstep(part, loss)
        for _ in range(2 * part.exchange.rank):
            with pytest.raises(ValueError, match="planted"):
                stepped()
        stepped.finish(lambda own: own())
        return 0

    assert outcomes(work, work) == [0, 0]


def test_the_first_exception_that_follows_from_no_other_rank_is_remembered():
    part = Session(exchanges(1)[0])
    part.raised(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), 1)
    part.raised(ValueError("first"), 1)
    part.raised(KeyError("second"), 1)
    with pytest.raises(RunOverError):
        part.fail(UsageError("nothing came"))
    told = part.exchange.claimed("failed")["message"]
    assert told == "nothing came; before that the loss of rank 0 raised ValueError: first"


def test_the_signature_of_a_loss_is_its_own():
    def loss(model, batch, num_items_in_batch=None):
        return None

    for one in (loss, functools.partial(loss, num_items_in_batch=3)):
        assert inspect.signature(Lockstep(None, one)) == inspect.signature(one)


def test_a_call_that_stands_in_leaves_no_trace():
    model, batch = tiny_model("LlamaForCausalLM"), text_batch()
    seen = []

    def loss(model, batch):
        out = model(**batch).loss
        seen.append(out)
        return out

    called_once(model, adapter_for(model), batch, loss)
    assert seen[0].grad_fn is not None, "a backward may need the other ranks too"
    assert all(param.grad is None and param.requires_grad for param in model.parameters())


# -- what a rank is given ----------------------------------------------------------------------------------


def test_samples_are_dealt_as_a_distributed_sampler_does():
    records = list(range(7))
    dealt = [shard_of(records, "f.jsonl", Place(rank, 3)) for rank in range(3)]
    assert dealt == [[0, 3, 6], [1, 4], [2, 5]]
    assert shard_of(records, "f.jsonl", Place()) == records


def test_fewer_samples_than_ranks_are_refused():
    with pytest.raises(UsageError, match=r"f\.jsonl has 2 samples for 3 ranks"):
        shard_of([1, 2], "f.jsonl", Place(0, 3))


@pytest.mark.parametrize(
    ("text", "count", "local", "device"),
    [("auto", 4, 2, "cuda:2"), ("cuda", 4, 0, "cuda:0"), ("auto", 1, 3, "cuda:0"), ("cpu", 4, 2, "cpu")],
    ids=["auto", "cuda", "one visible each", "cpu"],
)
def test_each_rank_has_a_device_of_its_own(monkeypatch, text, count, local, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert str(pick_device(text, Place(local, 8, local))) == device


@pytest.mark.parametrize(
    ("text", "local", "told"),
    [("cuda:1", 0, "one device for 8 ranks"), ("cuda", 5, "local rank 5, but there are 4 CUDA devices")],
)
def test_a_device_that_ranks_would_share_is_refused(monkeypatch, text, local, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UsageError, match=told):
        pick_device(text, Place(local, 8, local))
