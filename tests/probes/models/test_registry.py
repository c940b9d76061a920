"""Registered streams: known by the class of a model, at every door that is given no streams of its own."""

import sys
import types
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from live_runs import watched
from speech_zoo import by_name
from torch import nn

from probes import UsageError, check_loss, register
from probes.models import registry

ZOO = by_name("several ahead")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})


def train():
    model = ZOO.model()
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        ZOO.right(model, ZOO.batch()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_registered_class_is_read_by_its_streams():
    register(ZOO.model, ZOO.streams)
    report = check_loss(ZOO.model(), ZOO.batch(), ZOO.right)
    assert report.verdict == "pass"
    assert list(report.streams) == ["text", "mtp[0]", "mtp[1]"]
    wrong, code = ZOO.wrong["one short"]
    assert code in {f.code for f in check_loss(ZOO.model(), ZOO.batch(), wrong).findings}


def test_streams_may_be_a_function_of_the_model():
    class Sized(ZOO.model):
        heads = ("text", "mtp[{k}]")

    register(Sized, lambda model: {name: ZOO.streams[name] for name in model.heads})
    model = Sized()
    assert [one.name for one in registry.registered(model)] == ["text", "mtp[{k}]"]
    model.heads = ("text",)
    assert [one.name for one in registry.registered(nn.DataParallel(model))] == ["text"]


def test_run_reads_them_too():
    register(ZOO.model, ZOO.streams)
    report, _ = watched(train)
    assert list(report.streams) == ["text", "mtp[0]", "mtp[1]"]
    assert [list(stream["offsets"]) for stream in report.streams.values()] == [["1"], ["2"], ["3"]]


def test_subclasses_have_the_streams_of_their_nearest_class():
    class Mine(ZOO.model):
        pass

    register(ZOO.model, ZOO.streams)
    assert [one.name for one in registry.registered(Mine())] == ["text", "mtp[{k}]"]
    register(Mine, {"text": ZOO.streams["text"]})
    assert [one.name for one in registry.registered(nn.DataParallel(Mine()))] == ["text"]
    assert registry.registered(nn.Linear(2, 2)) == ()


def test_an_installed_package_declares_its_own(monkeypatch):
    module = types.ModuleType("my_streams")
    module.AHEAD, module.BROKEN = ZOO.streams, {"text": {"hed": "lm_head"}}
    monkeypatch.setitem(sys.modules, "my_streams", module)
    points = EntryPoints(
        EntryPoint(name, value, registry.GROUP)
        for name, value in (
            ("speech_zoo.Ahead", "my_streams:AHEAD"),
            ("torch.nn.modules.linear.Linear", "my_streams:X"),
        )
    )
    monkeypatch.setattr(registry, "_points", lambda _: points)
    assert [one.name for one in registry.registered(ZOO.model())] == ["text", "mtp[{k}]"]
    with pytest.raises(UsageError, match=r"entry point my_streams:X .* cannot be loaded: AttributeError"):
        registry.registered(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("model_class", "streams", "message"),
    [
        ("Ahead", ZOO.streams, "a class of torch modules is registered, got 'Ahead'"),
        (ZOO.model, {"text": {"ids": "x"}}, r"streams of Ahead: \[text\] has no head"),
    ],
)
def test_what_cannot_be_registered(model_class, streams, message):
    with pytest.raises(UsageError, match=message):
        register(model_class, streams)
