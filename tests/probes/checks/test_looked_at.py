"""PASS means looked at: models of public reports of which a part is watched, and programs that hide what they train."""

import re

import pytest
import torch
import torch.nn.functional as F
from speech_zoo import ZOO, by_name, ce, ids
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss
from probes.models.stream_entries import read_streams

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def codes(report):
    return [one.code for one in report.findings]


# -- several heads, of which one is named -----------------------------------------------------------


def heads_of(one):
    """The modules that its declared streams have as heads, in their order."""
    paths = [head.path for stream in read_streams(one.streams) for head in stream.head if not head.is_output]
    patterns = [re.compile(re.escape(path).replace(r"\{k\}", r"\d+") + "$") for path in paths]
    named = [path for path, module in one.model().named_modules() if isinstance(module, nn.Linear)]
    return list(dict.fromkeys(path for pattern in patterns for path in named if pattern.match(path)))


#: Models with several heads that are modules; those that predict further ahead are judged with the first, and the
#: first of masked levels has no target of its own to be found by.
SEVERAL = [one for one in ZOO if len(heads_of(one)) > 1 and one.name not in {"several ahead", "masked levels"}]


@pytest.mark.parametrize("one", SEVERAL, ids=lambda one: one.name)
def test_one_of_several_heads_is_no_pass_and_the_others_are_named(one):
    first, *others = heads_of(one)
    report = check_loss(one.model(), one.batch(), one.right, heads=[first], replay=False)
    assert report.verdict == "incomplete"
    assert {found.stream for found in report.findings if found.code == "LA801"} == {*others}


@pytest.mark.parametrize("one", [by_name("text and K codebooks"), by_name("talker and code predictor")])
def test_all_of_them_are(one):
    report = check_loss(one.model(), one.batch(), one.right, heads=heads_of(one), replay=False)
    assert (report.verdict, codes(report)) == ("pass", [])


# -- a row of a model that is read by its own head, and what the loss does beside it -----------------


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, **SIZES))


def next_token(logits, labels, first=0):
    return ce(logits[first:, :-1], labels[first:, 1:])


def detached(model, batch):
    out = model(input_ids=batch["input_ids"], output_hidden_states=True)
    return next_token(out.logits.detach(), batch["labels"]) + 0.01 * out.hidden_states[-1].square().mean()


def hidden_alone(model, batch):
    return model.model(input_ids=batch["input_ids"])[0].square().mean()


def penalised(first):
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return next_token(logits, batch["labels"], first) + 1e-5 * logits.square().mean()

    return loss


def of_one_hot(first, shift=1):
    """Binary cross-entropy of one-hot rows."""

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits[first:]
        wanted = F.one_hot(batch["labels"][first:, shift:], 128).float()
        return F.binary_cross_entropy_with_logits(logits[:, : logits.shape[1] - shift], wanted)

    return loss


def turned(fused):
    def loss(model, batch):
        hidden = model.model(input_ids=batch["input_ids"])[0][:, :-1]
        logits = F.linear(hidden, model.lm_head.weight) if fused else model.lm_head(hidden)
        return -ce(logits, batch["labels"][:, 1:])

    return loss


def one_by_one(model, batch):
    """Micro-batches of one sample each, of which the last alone is labelled."""
    parts = zip(batch["input_ids"].split(1), batch["labels"].split(1), strict=True)
    return sum(ce(model(input_ids=x).logits[:, :-1], y[:, 1:], reduction="sum") for x, y in parts)


def squeezed(model, batch):
    """Does not run on one sample."""
    logits, labels = model(input_ids=batch["input_ids"]).logits[:, :-1].squeeze(0), batch["labels"][:, 1:].squeeze(0)
    return F.cross_entropy(logits.flatten(0, 1) if logits.dim() == 3 else logits.T, labels.flatten())


TEXT = ids(1, 128, 3, 12)
PROMPTED = TEXT.masked_fill(torch.arange(12) < 4, -100)
ALIKE = TEXT[:1].repeat(3, 1)
LAST = torch.full_like(ALIKE, -100)
LAST[2] = ALIKE[2]


@pytest.mark.parametrize(
    ("loss", "labels", "verdict", "found"),
    [
        pytest.param(detached, TEXT, "fail", ["LA605"], id="logits detached beside a loss of hidden rows"),
        pytest.param(hidden_alone, TEXT, "fail", ["LA605"], id="no logit is used"),
        pytest.param(penalised(0), PROMPTED, "pass", [], id="L2 on the logits"),
        pytest.param(penalised(1), PROMPTED, "fail", ["LA201"], id="L2 hides no sample that was dropped"),
        pytest.param(of_one_hot(0), TEXT, "pass", [], id="one-hot rows"),
        pytest.param(of_one_hot(0, 0), TEXT, "fail", ["LA102"], id="one-hot rows that copy"),
        pytest.param(of_one_hot(1), TEXT, "fail", ["LA201"], id="one-hot rows, a sample dropped"),
        pytest.param(turned(fused=False), TEXT, "pass", ["LA304"], id="sign turned round"),
        pytest.param(turned(fused=True), TEXT, "pass", ["LA304"], id="sign turned round, fused"),
    ],
)
def test_what_is_hidden_is_read_or_said(loss, labels, verdict, found):
    report = check_loss(llama(), {"input_ids": TEXT, "labels": labels.clone()}, loss, replay=False)
    assert (report.verdict, codes(report)) == (verdict, found)


def test_alike_micro_batches_are_told_apart_by_their_order():
    report = check_loss(llama(), {"input_ids": ALIKE, "labels": LAST}, one_by_one, replay=False)
    assert codes(report) == ["LA207", "LA208"]  # warnings of the labels, and no row that is missing


def test_a_reduction_that_could_not_be_proven_is_no_check_that_passed():
    labels = TEXT.clone()
    labels[0, 6:] = -100
    given = {"input_ids": TEXT, "labels": labels}
    report = check_loss(llama(), given, squeezed, reduction="sequence-mean", replay=False)
    assert report.check("reduction").status == "skip"
    assert "does not run on a part" in report.check("reduction").detail


# -- labels that say what the loss says -------------------------------------------------------------


class Speech(nn.Module):
    """Text, then speech behind a start token: a head each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix, self.mel_head = nn.Embedding(80, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 80)

    def forward(self, input_ids):
        return self.mel_head(self.mix(self.table(input_ids))[0])


@pytest.mark.parametrize(("labels", "verdict"), [("what is trained", "pass"), ("what is meant", "fail")])
def test_reference_audio_that_is_trained_is_named_where_anything_says_what_is_meant(labels, verdict):
    mel = ids(2, 78, 3, 12)
    trained = F.pad(mel, (0, 1), value=79)
    trained[2, 5:9] = -100  # the last sample alone: an index that was left over
    meant = trained.clone()
    meant[0, 2:6] = meant[1, 0:4] = -100
    batch = {
        "input_ids": F.pad(mel, (1, 0), value=78),
        "labels": meant if verdict == "fail" else trained,
        "own": trained,
    }

    def loss(model, batch):
        return ce(model(batch["input_ids"]), batch["own"])

    report = check_loss(Speech(), batch, loss, heads=["mel_head"], replay=False)
    assert (report.verdict, codes(report)) == (verdict, [] if verdict == "pass" else ["LA202"])
