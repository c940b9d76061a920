"""Architectures of people's own, watched as their loops run: named as check_loss names them, no loss run again."""

import copy

import pytest
import torch
from live_runs import EVERYTHING
from speech_models import SPEECH
from speech_zoo import ZOO, by_name

from probes.live.launch import Ended
from probes.models.stream_entries import read_streams
from probes.models.streams_file import streams_toml
from probes.processes.session import Session, Settings

#: What a watched run cannot see: labels that the loop keeps to itself, heads that are called beside the forward.
UNSEEN = {
    "channels of several vocabularies": {"LA804"},
    "backbone and depth decoder": {"LA805"},
    "interleaved codes (Orpheus)": {"LA804"},
    "two heads on one sequence (Kimi-Audio)": {"LA804"},
}
#: Faults that only the labels show.
BY_LABELS = {
    ("masked levels", "levels above"),
    ("interleaved codes (Orpheus)", "end left out"),
    ("two heads on one sequence (Kimi-Audio)", "prompt trained"),
    ("a user who is heard and not spoken (Moshi)", "user trained"),
}
#: All whose forward calls its ids as the batch does.
MODELS = [*ZOO, *(one for one in SPEECH if one.name != "speaker and speech tokens (Llasa, Spark)")]
#: One of each kind: a parameter, chunks, rows put in front, columns of one head, another order, several ahead.
QUICK = {
    "tied, without a head",
    "head in chunks",
    "text then mel",
    "talker and code predictor",
    "time before samples",
    "several ahead",
}

ARCHITECTURES = [pytest.param(one, id=one.name, marks=() if one.name in QUICK else pytest.mark.deep) for one in MODELS]
FAULTS = [
    pytest.param(one, fault, id=f"{one.name}-{fault}", marks=() if one.name in QUICK and not nth else pytest.mark.deep)
    for one in MODELS
    for nth, fault in enumerate(one.wrong)
    if (one.name, fault) not in BY_LABELS
]


def trained(one, loss, model):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        loss(model, one.batch()).backward()
        optimizer.step()
        optimizer.zero_grad()


def watched(one, loss, model, tmp_path):
    path = tmp_path / "streams.toml"
    path.write_text(streams_toml(read_streams(one.streams)))
    with Session(Settings(2, (), False, {}, EVERYTHING, list, streams=str(path))) as session:
        session.begin()
        trained(one, loss, model)
        session.end(Ended(0))
    return session.report


def made(one):
    torch.manual_seed(0)
    return one.model()


@pytest.mark.parametrize("one", ARCHITECTURES)
def test_a_right_loop_is_silent_and_trains_bit_for_bit_the_same(one, tmp_path):
    model = made(one)
    alone = copy.deepcopy(model)
    report = watched(one, one.right, model, tmp_path)
    trained(one, one.right, alone)
    assert not report.error
    assert {f.code for f in report.findings} == UNSEEN.get(one.name, set())
    for name, stream in report.streams.items():
        offsets = {int(offset) for offset in stream["offsets"] if offset not in ("outside", "elsewhere")}
        assert bool(stream["supervised"]) is (name not in one.silent), name
        assert offsets <= {one.offsets.get(name, 1)}, name
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(("one", "fault"), FAULTS)
def test_a_wrong_loop_has_the_code_that_check_loss_gives_it(one, fault, tmp_path):
    loss, code = one.wrong[fault]
    report = watched(one, loss, made(one), tmp_path)
    assert code in {f.code for f in report.findings if f.is_error}


def test_modes_of_the_script_are_left_as_it_left_them(tmp_path):
    """The parameter's products are seen below whatever mode the script enters, and leaves while it is watched."""
    one = by_name("tied, without a head")
    before = torch.overrides._len_torch_function_stack()

    def loss(model, batch):
        with torch.device("cpu"):
            return one.right(model, batch)

    model = made(one)
    with torch.device("cpu"):
        report = watched(one, loss, model, tmp_path)
        assert torch.overrides._len_torch_function_stack() == before + 1
    assert torch.overrides._len_torch_function_stack() == before
    assert report.streams["text"]["offsets"] == {"1": 52}
