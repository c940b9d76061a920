"""ProphetNet: n-grams that one head gives in one call, each a stream, held to where the model lays it."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import loop, watched
from lm_tiny import VOCAB, tiny_model

from probes import check_loss

NAMES = ["text", "text ngram 2", "text ngram 3"]


def drawn(*shape):
    return torch.randint(4, VOCAB, shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return tiny_model("ProphetNetForConditionalGeneration", ngram=3)


@pytest.fixture(scope="module")
def batch():
    return {"input_ids": drawn(2, 9), "labels": drawn(2, 8)}


def own_loss(model, batch):
    return model(**batch).loss


def of_logits(kind):
    """Each n-gram's cross-entropy by itself; ``kind`` shifts the labels of the further ones."""

    def loss(model, batch):
        out, labels = model(**batch), batch["labels"]
        target = F.pad(labels[:, max(kind, 0) :][:, : 8 - abs(kind)], (max(-kind, 0), max(kind, 0)), value=-100)
        further = sum(F.cross_entropy(one.flatten(0, 1), target.flatten()) for one in out.logits_ngram.unbind(1))
        return F.cross_entropy(out.logits.flatten(0, 1), labels.flatten()) + further

    return loss


def test_its_own_loss_trains_every_ngram_on_the_same_labels(model, batch):
    report = check_loss(model, batch, own_loss)
    assert (report.verdict, list(report.streams)) == ("pass", NAMES)
    assert [one["supervised"] for one in report.streams.values()] == [16] * 3


@pytest.mark.parametrize(("kind", "code"), [(0, None), (1, "LA103"), (-1, "LA102")], ids=["right", "later", "copy"])
def test_further_ngrams_are_judged_beside_a_right_first_one(model, batch, kind, code):
    found = [(f.code, f.stream) for f in check_loss(model, batch, of_logits(kind), replay=False).findings if f.is_error]
    assert [one for one in found if one[0] != "LA202"] == [(code, name) for name in NAMES[1:] if code]


def test_ngrams_that_are_switched_off_are_no_streams(batch):
    off = tiny_model("ProphetNetForConditionalGeneration", ngram=2, disable_ngram_loss=True)
    report = check_loss(off, batch, own_loss)
    assert (report.verdict, list(report.streams)) == ("pass", NAMES[:1])


@pytest.mark.parametrize(("loss", "code"), [(own_loss, None), (of_logits(1), "LA103")], ids=["right", "later"])
def test_under_run(model, batch, loss, code):
    report, _ = watched(lambda: loop(model, loss, [batch, batch]))
    assert [(f.code, f.stream) for f in report.findings if f.is_error] == [(code, name) for name in NAMES[1:] if code]
    assert list(report.streams) == NAMES
