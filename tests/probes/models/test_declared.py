"""Declared streams: what a model of one's own trains is read, whatever its heads, keys and inputs look like."""

import pytest
import torch
from speech_zoo import ZOO, by_name

from alignment import InputError
from probes import UsageError, check_loss


def named(one):
    return one.name


def made(one):
    torch.manual_seed(0)
    return one.model(), one.batch()


def codes(report):
    return [f.code for f in report.findings if f.is_error]


@pytest.mark.parametrize("one", ZOO, ids=named)
def test_a_right_loss_is_silent_and_all_its_streams_are_read(one):
    model, batch = made(one)
    report = check_loss(model, batch, one.right, streams=one.streams)
    assert not report.findings
    for name, stream in report.streams.items():
        offsets = {int(offset) for offset in stream["offsets"] if offset not in ("outside", "elsewhere")}
        assert bool(stream["supervised"]) is (name not in one.silent), name
        assert offsets <= {one.offsets.get(name, 1)}, name


@pytest.mark.parametrize(
    ("one", "fault"),
    [(one, fault) for one in ZOO for fault in one.wrong],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_wrong_loss_has_its_code(one, fault):
    model, batch = made(one)
    loss, code = one.wrong[fault]
    leaks = code.startswith("LA4")  # no other code needs the replay
    assert code in codes(check_loss(model, batch, loss, streams=one.streams, replay=leaks))


def test_the_model_and_the_batch_are_as_before():
    one = by_name("backbone and depth decoder")
    model, batch = made(one)
    before = {name: value.clone() for name, value in [*model.state_dict().items(), *batch.items()]}
    check_loss(model, batch, one.wrong["copy"][0], streams=one.streams)
    after = dict([*model.state_dict().items(), *batch.items()])
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_heads_and_streams_are_not_both_given():
    one = by_name("text and K codebooks")
    model, batch = made(one)
    with pytest.raises(UsageError, match="not both"):
        check_loss(model, batch, one.right, heads=["text_head"], streams=one.streams)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"head": "text_hed"}, UsageError, r"\[text\] head: TextAndBooks has no .*'text_hed'; did you mean text_head"),
        (
            {"ids": "txt"},
            InputError,
            r"\[text\] ids: the batch has no txt; did you mean text\? It holds text \[2, 20\]",
        ),
        ({"ids": "codes"}, InputError, r"\[text\] ids must be \(samples, positions\).*take one stream of them"),
        ({"labels": "codes[:, 0, 1:]"}, InputError, r"\[text\] labels have shape \[2, 19\], its ids \[2, 20\]"),
        ({"labels": lambda batch: batch["nothing"]}, InputError, "the function raised KeyError"),
        ({"ids": lambda batch: [1]}, InputError, "returned a list and no tensor"),
        ({"body": "bdy"}, UsageError, "has no module 'bdy'; did you mean body"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    one = by_name("text and K codebooks")
    model, batch = made(one)
    streams = {**one.streams, "text": {**one.streams["text"], **change}}
    with pytest.raises(error, match=message):
        check_loss(model, batch, one.right, streams=streams)


def test_no_head_that_matches_a_pattern_is_named():
    one = by_name("text and K codebooks")
    model, batch = made(one)
    with pytest.raises(UsageError, match=r"no module or parameter 'head\.0'; did you mean heads\.0"):
        check_loss(model, batch, one.right, streams={"audio[{k}]": {"head": "head.{k}", "ids": "codes[:, {k}]"}})
