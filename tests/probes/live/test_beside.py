"""``run``: heads over a vocabulary of the model that are trained and not watched are a blind spot, named by path."""

import copy

import pytest
import torch
from live_runs import batches, llama, loop, mean, same_state, watched
from speech_zoo import by_name
from torch import nn
from torch.utils.checkpoint import checkpoint

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


class WithMore(nn.Module):
    """A language model, a value of each state and a choice among five."""

    def __init__(self):
        super().__init__()
        self.llm, self.value, self.classes = llama(), nn.Linear(32, 1), nn.Linear(32, 5)

    def forward(self, input_ids, attention_mask, labels):
        out = self.llm(input_ids, attention_mask, output_hidden_states=True)
        state = out.hidden_states[-1]
        return out.logits, self.value(state).square().mean(), self.classes(state[:, -1])


def more(*, value):
    def loss(model, batch):
        logits, values, classes = model(**batch)
        chosen = nn.functional.cross_entropy(classes, torch.arange(len(classes)))
        return mean(logits, batch["labels"]) + (values + chosen if value else 0)

    return loss


@pytest.mark.parametrize("value", [True, False])
def test_what_else_is_trained_is_said_as_check_loss_says_it(value):
    report, _ = watched(lambda: loop(WithMore(), more(value=value), batches(2)))
    assert report.verdict == "pass"
    told = [note for note in report.notes if note.startswith("also trained")]
    assert told == (["also trained: classes", "also trained: value"] if value else [])


def test_what_feeds_a_head_through_a_checkpoint_is_not_said_to_be_trained_beside_it():
    model = llama()
    layer = model.model.layers[0]
    whole = layer.forward
    layer.forward = lambda x, *args, **given: checkpoint(lambda x: whole(x, *args, **given), x, use_reentrant=True)
    report, _ = watched(lambda: loop(model, lambda m, b: mean(m(**b, use_cache=False).logits, b["labels"]), batches(2)))
    assert report.verdict == "pass"
    assert not [note for note in report.notes if note.startswith("also trained")]
