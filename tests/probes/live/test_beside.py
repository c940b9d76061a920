"""``run``: heads over a vocabulary of the model that are trained and not watched are a blind spot, named by path."""

import copy

import pytest
import torch
from live_runs import batches, llama, loop, mean, same_state, watched
from speech_zoo import by_name
from torch import nn

from probes.records.choice import Choice

BOOKS = by_name("text and K codebooks")


def train(loss, model=None):
    torch.manual_seed(0)
    model = BOOKS.model() if model is None else model
    loop(model, loss, [BOOKS.batch() for _ in range(2)])
    return model


def unwatched(report):
    return [(finding.stream, finding.count) for finding in report.findings if finding.code == "LA801"]


@pytest.mark.parametrize("loss", [BOOKS.right, BOOKS.wrong["copy"][0]], ids=["right", "copy"])
def test_codebook_heads_beside_the_watched_text_head(loss):
    report, code = watched(lambda: train(loss), heads=["text_head"])
    assert [path for path, _ in unwatched(report)] == [f"heads.{k}" for k in range(4)]
    assert report.verdict == "incomplete"
    assert code == 0  # the script's own
    assert "heads.0 (2, 20, " in report.findings[-4].message


def test_stop_ends_with_4():
    with pytest.raises(SystemExit) as ended:
        watched(lambda: train(BOOKS.right), heads=["text_head"], stop=True)
    assert ended.value.code == 4


def test_heads_that_are_accepted_by_name():
    keep = Choice.of(["LA801:heads"])
    report, _ = watched(lambda: train(BOOKS.right), heads=["text_head"], keep=keep)
    assert report.verdict == "pass"


def test_training_is_the_same_bit_for_bit():
    model = BOOKS.model()
    twin = copy.deepcopy(model)
    watched(lambda: train(BOOKS.right, model), heads=["text_head"])
    train(BOOKS.right, twin)
    assert same_state(model, twin)


class Wide(nn.Module):
    """A language model with a layer as wide as its vocabulary beside its head, and a value."""

    def __init__(self):
        super().__init__()
        self.model = llama()
        self.wide, self.value = nn.Linear(32, 256), nn.Linear(256, 1)


def test_a_layer_of_that_width_that_is_no_head_is_none():
    def loss(model, batch):
        out = model.model(**batch, output_hidden_states=True)
        value = model.value(model.wide(out.hidden_states[-1]).tanh())
        return mean(out.logits, batch["labels"]) + value.square().mean()

    report, _ = watched(lambda: loop(Wide(), loss, batches(2)))
    assert not unwatched(report)
    assert report.verdict == "pass"
