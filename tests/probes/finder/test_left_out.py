"""Heads that a loss leaves out (LA205), trains with soft targets alone or beside streams that are clear (LA801)."""

import pytest
import torch
import torch.nn.functional as F
from finder_models import BESIDE, Beside, V, next_token
from speech_zoo import ce, ids
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss
from probes.finder import guard

K, CODES, D = 3, 40, 32
HEADS = [f"code_heads.{k}" for k in range(K)]


class Talker(nn.Module):
    """A language model of a frame's first code, and a small decoder that gives the others of the same frame."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": D, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=CODES + 3, **sizes))
        self.decoder = nn.GRU(D, D, batch_first=True)
        self.embed = nn.ModuleList(nn.Embedding(CODES, D) for _ in range(K))
        self.code_heads = nn.ModuleList(nn.Linear(D, CODES) for _ in range(K))

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, output_hidden_states=True)

    def rest(self, hidden, frames):
        read = torch.stack([self.embed[k](frames[:, k]) for k in range(K)], 1)
        rows, _ = self.decoder(torch.cat([hidden[:, None], read], 1))
        return torch.stack([head(rows[:, k + 1]) for k, head in enumerate(self.code_heads)], 1)


def batch():
    codes = ids(3, CODES, 2, 12, K + 1, low=0)
    return {"input_ids": codes[..., 0], "codes": codes, "labels": codes[..., 0]}


def talk(*, predictor=True, shift=1):
    def loss(model, batch):
        out = model(batch["input_ids"])
        first = ce(out.logits[:, :-1], batch["labels"][:, 1:])
        if not predictor:
            return first
        frames = batch["codes"][:, shift:].flatten(0, 1)
        hidden = out.hidden_states[-1][:, : 12 - shift].flatten(0, 1)
        return first + 0.3 * ce(model.rest(hidden, frames), frames[:, 1:])

    return loss


def told(report):
    return [(one.code, one.stream) for one in report.findings]


@pytest.mark.parametrize("heads", [(), ("model.lm_head", *HEADS)], ids=["none named", "all named"])
def test_a_code_predictor_whose_loss_was_dropped(heads):
    report = check_loss(Talker(), batch(), talk(predictor=False), heads=heads)
    assert (told(report), report.verdict) == ([("LA205", ", ".join(HEADS))], "fail")


def test_the_same_where_only_its_heads_are_named():
    report = check_loss(Talker(), batch(), talk(predictor=False), heads=HEADS)
    assert report.verdict == "fail"
    assert {code for code, _ in told(report)} == {"LA205", "LA801"}
    assert "all that the loss trains is model.lm_head" in report.findings[0].message


def test_a_code_predictor_that_is_named_is_read_and_a_shift_in_it_told():
    assert check_loss(Talker(), batch(), talk(), heads=("model.lm_head", *HEADS)).verdict == "pass"
    report = check_loss(Talker(), batch(), talk(shift=2), heads=("model.lm_head", *HEADS))
    assert {code for code, _ in told(report)} == {"LA103"}


def test_a_code_predictor_that_nobody_watches_is_a_blind_spot():
    report = check_loss(Talker(), batch(), talk())
    assert told(report) == [("LA801", head) for head in HEADS]


def test_a_head_of_another_stage_is_a_note():
    """Nothing of the batch was meant for it."""
    report = check_loss(Talker(), {key: batch()[key] for key in ("input_ids", "labels")}, talk(predictor=False))
    assert (report.verdict, report.findings) == ("pass", [])
    assert "not trained: code_heads.*, as wide as a vocabulary of the model" in report.notes


def test_a_frozen_head_is_left_out_on_purpose():
    model = Talker()
    model.code_heads.requires_grad_(False)
    assert check_loss(model, batch(), talk(predictor=False)).verdict == "pass"


class Taught(Beside):
    """A second head over the same ids."""

    def __init__(self):
        super().__init__()
        self.draft = nn.Linear(32, V)


TEACHER = torch.randn(2, 12, V, generator=torch.Generator().manual_seed(5)).softmax(-1)
HEAD = {"text": {"head": "head", "ids": "x"}}


def taught(weight):
    def loss(model, batch):
        logits, _, _, hidden = model(batch["x"])
        draft = model.draft(hidden).log_softmax(-1)
        return ce(logits[:, :-1], batch["x"][:, 1:]) + weight * F.kl_div(draft, TEACHER, reduction="batchmean")

    return loss


def test_a_head_that_a_soft_teacher_alone_trains_is_a_blind_spot():
    report = check_loss(Taught(), BESIDE, taught(1.0), streams=HEAD)
    assert told(report) == [("LA801", "draft")]
    assert "its gradient names no single token" in report.findings[0].message
    assert check_loss(Taught(), BESIDE, taught(1.0), streams=HEAD, ignore=["LA801:draft"]).verdict == "pass"


def test_a_head_whose_loss_weighs_nothing_is_none():
    assert check_loss(Taught(), BESIDE, taught(0.0), streams=HEAD).verdict == "pass"


def test_streams_that_are_clear_are_judged_beside_one_that_is_not():
    kept = torch.randint(3, V, (2, 12), generator=torch.Generator().manual_seed(9))

    def loss(model, batch):
        return next_token(model, batch) + ce(model.draft(model(batch["x"])[3]), kept)

    def copy(model, batch):
        logits, _, _, hidden = model(batch["x"])
        return ce(logits, batch["x"]) + ce(model.draft(hidden), kept)

    report = check_loss(Taught(), BESIDE, loss)
    assert (told(report), report.verdict) == ([("LA801", "draft")], "incomplete")
    assert told(check_loss(Taught(), BESIDE, copy))[0] == ("LA102", "text")


def test_heads_of_a_model_that_is_sharded_are_said_to_be_unseen(monkeypatch):
    """A walk that ends before its forward does would leave FSDP2's weights gathered."""
    monkeypatch.setattr(guard, "must_finish", lambda _: True)
    report = check_loss(Taught(), BESIDE, taught(1.0), streams=HEAD)
    assert told(report) == [("LA801", "draft")]
    assert "the model is sharded (FSDP2), and was not searched" in report.findings[0].message
    assert check_loss(Beside(), BESIDE, next_token, streams=HEAD).verdict == "pass"
