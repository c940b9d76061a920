"""Losses and models of every style, each read in a loop: a correct one silent, a copy named."""

import sys

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, mean
from observed_runs import UNTOLD, codes, right, run, unlabelled
from torch import nn
from torch.utils.checkpoint import checkpoint

from alignment import InputError
from probes import check_loss


def fused(model, batch):
    """The head is never called; neither are its logits ever a tensor that a hook sees."""
    hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = F.linear(hidden, model.lm_head.weight)
    return mean(logits, batch["labels"])


class Fused(torch.autograd.Function):
    """Logits and their loss in one, gradients made on the way forward."""

    @staticmethod
    def forward(ctx, hidden, weight, labels):
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in (hidden, weight)]
            loss = F.cross_entropy(F.linear(*leaves), labels)
            ctx.grads = torch.autograd.grad(loss, leaves)
        return loss.detach()

    @staticmethod
    def backward(ctx, grad):
        return (*(grad * one for one in ctx.grads), None)


def fused_by_a_function(model, batch):
    hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return Fused.apply(hidden[:, :-1].flatten(0, 1), model.lm_head.weight, batch["labels"][:, 1:].flatten())


def by_chunks(model, batch):
    """Chunks of rows, the head and its loss recomputed in the backward."""
    hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    rows, labels = hidden[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()

    def part(rows, labels):
        return F.cross_entropy(model.lm_head(rows), labels, reduction="sum", ignore_index=-100)

    parts = zip(rows.split(7), labels.split(7), strict=True)
    return sum(checkpoint(part, *one, use_reentrant=False) for one in parts) / (labels != -100).sum()


def in_two_backwards(model, batch):
    logits = model(**batch).logits
    labels = batch["labels"]
    first = mean(logits, labels.masked_fill(torch.arange(20) < 9, -100)) * 0.4
    first.backward(retain_graph=True)
    return mean(logits, labels.masked_fill(torch.arange(20) >= 9, -100)) * 0.4


def scaled_in_place(model, batch):
    logits = model(**batch).logits
    logits /= 2
    return mean(logits, batch["labels"])


def with_an_evaluation(model, batch):
    with torch.no_grad():
        model.eval()
        mean(model(**batch).logits, batch["labels"], 0)
        model.train()
    model(**batch)
    return right(model, batch)


def smoothed(model, batch):
    logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)


def by_its_forward(model, batch):
    return mean(model.forward(**batch).logits, batch["labels"])


def half(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return mean(model(**batch).logits, batch["labels"])


@pytest.mark.parametrize(
    "loss",
    [
        fused,
        fused_by_a_function,
        by_chunks,
        in_two_backwards,
        scaled_in_place,
        with_an_evaluation,
        smoothed,
        by_its_forward,
        half,
    ],
    ids=lambda loss: loss.__name__,
)
def test_a_correct_loss_of_any_style_is_silent_and_read(loss):
    report, code = run(loss, batches(6))
    assert (report.error, codes(report), code) == ("", [], 0)
    assert report.check("pairing-text").status == "pass"
    assert report.streams["text"]["supervised"] > 20


@pytest.mark.parametrize("loss", [fused, by_chunks, half, by_its_forward], ids=lambda loss: loss.__name__)
def test_the_same_style_with_a_copy_is_named(loss, monkeypatch):
    own = mean
    monkeypatch.setattr(sys.modules[__name__], "mean", lambda logits, labels, shift=1: own(logits, labels, 0))
    moved = loss is by_chunks  # it shifts by itself
    report, _ = run(
        lambda model, batch: loss(model, {**batch, "labels": batch["labels"].roll(int(moved), 1)}), batches(6)
    )
    assert "LA102 error" in codes(report)


def test_a_preference_loss_weighs_its_pairs_as_it_likes():
    def preference(model, batch):
        logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
        scores = -F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
        return -F.logsigmoid(0.1 * (scores[0] - scores[1]))

    report, _ = run(preference, accumulate=2)
    assert [one for one in codes(report) if "error" in one] == []


def test_a_reward_of_both_signs_is_not_a_failure():
    def reward(model, batch):
        labels = batch.pop("labels")
        logits = model(**batch).logits
        good, bad = (mean(logits[part], labels[part]) for part in (slice(1), slice(1, 2)))
        return good - 0.7 * bad

    report, code = run(reward)
    assert (codes(report), code) == ([], 0)
    assert report.check("pairing-text").status == "skip"
    assert "a preference or a reward" in report.check("pairing-text").detail


def test_a_loss_with_its_sign_turned_round_is_named():
    report, code = run(unlabelled(lambda logits, labels: -mean(logits, labels)))
    assert (codes(report), report.check("pairing-text").status, code) == (["LA304 warning"], "skip", 0)


def test_a_soft_teacher_is_not_read_and_not_a_failure():
    def distilled(logits, labels):
        teacher = logits.detach().roll(1, 0).softmax(-1)
        return F.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")

    report, code = run(unlabelled(distilled))
    assert (report.verdict, codes(report), code) == ("incomplete", ["LA802 blind"], 0)
    assert report.check("coverage").status == "skip"


@pytest.mark.versions
def test_a_masked_language_model_is_held_to_its_own_tokens():
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = BertForMaskedLM(BertConfig(vocab_size=VOCAB, **sizes)).train()
    data = []
    for batch in batches(4):
        masked = (torch.rand(2, 20) < 0.3) & (batch["attention_mask"] == 1)
        labels = batch["input_ids"].masked_fill(~masked, -100)
        data.append({**batch, "input_ids": batch["input_ids"].masked_fill(masked, 1), "labels": labels})
    report, code = run(lambda model, batch: model(**batch).loss, data, model=model)
    assert (report.verdict, codes(report), code) == ("pass", [], 0)
    assert "at their own masked position" in report.check("pairing-text").detail


def test_a_batch_that_check_loss_refuses_is_refused_with_the_same_sentence():
    data = batches(1)
    data[0]["input_ids"][0, 3] = VOCAB + 1
    model = llama()
    model.model.embed_tokens.register_forward_pre_hook(lambda module, args: (args[0].clamp(max=VOCAB - 1),))
    with pytest.raises(InputError) as refused:
        check_loss(model, data[0], right)
    report, code = run(right, data, model=model, steps=1)
    assert (report.verdict, report.error, code) == ("error", str(refused.value), 2)


@pytest.mark.versions
def test_an_encoder_decoder_model_is_read_at_its_decoder():
    from lm_tiny import tiny_model

    model = tiny_model("T5ForConditionalGeneration")
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 90, (2, 20), generator=draw) for _ in range(4)]
    data = [{"input_ids": one, "labels": one.flip(1)} for one in ids]
    report, _ = run(lambda model, batch: model(**batch).loss, data, model=model)
    assert (report.error, codes(report)) == ("", [])
    assert report.check("pairing-text").status == "pass"


def test_a_head_of_ones_own_is_named_or_known_by_its_size_or_found():
    class Tiny(nn.Module):
        def __init__(self, more):
            super().__init__()
            self.embed, self.out = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB + more)

        def forward(self, ids):
            return self.out(self.embed(ids))

    def copies(model, batch):
        return mean(model(batch["input_ids"]), batch["labels"], 0)

    for more, heads in ((7, ["out"]), (0, []), (7, [])):
        report, code = run(copies, model=Tiny(more), heads=heads)
        assert (codes(report), code) == (["LA102 error"], 1)


def test_labels_that_a_wrapper_drops_are_named_and_used():
    from peft import LoraConfig, PeftModel

    class Dropping(PeftModel):
        def forward(self, *args, labels=None, **kwargs):
            return super().forward(*args, **kwargs)

    model = Dropping(llama(), LoraConfig(target_modules=["q_proj"]))
    report, _ = run(lambda model, batch: mean(model(**batch).logits, batch["labels"]), model=model)
    assert codes(report) == ["LA601 error"]
    assert report.check("coverage").status == "pass"


def test_a_wrapper_of_ones_own_may_keep_the_labels_to_itself():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.llm = llama()

        def forward(self, labels, **inputs):
            return mean(self.llm(**inputs).logits, labels)

    report, _ = run(lambda model, batch: model(**batch), model=Wrapper())
    assert (codes(report), report.check("coverage").status) == ([], "pass")


class SpeechModel(nn.Module):
    """Frames of audio before the embeddings of a text, as speech models are built around a language model."""

    def __init__(self):
        super().__init__()
        self.encoder, self.llm = nn.Linear(8, 32), llama()

    def forward(self, frames, input_ids, attention_mask, labels):
        audio = self.encoder(frames)
        embedded = torch.cat([audio, self.llm.get_input_embeddings()(input_ids)], 1)
        mask = torch.cat([torch.ones(audio.shape[:2]).long(), attention_mask], 1)
        labels = torch.cat([torch.full(audio.shape[:2], -100), labels], 1)
        return self.llm(inputs_embeds=embedded, attention_mask=mask).logits, labels


@pytest.mark.parametrize(("shift", "found"), [(1, UNTOLD), (0, ["LA102 error"])])
def test_a_speech_model_around_a_language_model(shift, found):
    def loss(model, batch):
        logits, labels = model(torch.randn(2, 6, 8), **batch)
        return mean(logits, labels, shift)

    report, _ = run(loss, model=SpeechModel())
    assert (report.error, codes(report)) == ("", found)
    assert report.streams["text"]["rows"] == 2 * 2 * 26
