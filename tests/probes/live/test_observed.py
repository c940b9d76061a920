"""What is said of training loops: each fault named, each correct one silent, what was not seen not passed."""

import copy
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, mean, watched
from narrow import narrow_batch, narrow_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from alignment import InputError
from probes import check_loss
from probes.records.choice import Choice

#: A loop that keeps its labels to itself, on a part of the rows: nobody says which must be trained.
UNTOLD = ["LA804 blind"]


def right(model, batch):
    return mean(model(**batch).logits, batch["labels"])


def codes(report):
    return sorted({f"{found.code} {found.severity}" for found in report.findings})


def run(loss, data=None, *, model=None, **options):
    model = llama() if model is None else model
    accumulate = options.pop("accumulate", 1)
    report, code = watched(lambda: loop(model, loss, data or batches(4), accumulate=accumulate), **options)
    assert report is not None
    return report, code


def unlabelled(loss):
    """The loop takes the labels out of its batch before it calls the model."""

    def popped(model, batch):
        labels = batch.pop("labels")
        return loss(model(**batch).logits, labels)

    return popped


# -- ids that are alike ---------------------------------------------------------------------------------


def shifted(offset):
    def loss(model, batch):
        rows = batch["input_ids"].shape[1] - offset
        logits = model(**batch).logits[:, :rows]
        return F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, offset:].flatten())

    return loss


def filled(*ids):
    return [{"input_ids": torch.tensor([list(ids) * (12 // len(ids))] * 2)} for _ in range(2)]


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_batch_of_one_token_alone_does_not_show_which_one_is_trained(offset):
    report, code = run(shifted(offset), filled(5))
    assert (codes(report), report.verdict, code) == (UNTOLD, "incomplete", 0)
    assert "at +0 and at +1 and at +2 as well" in report.findings[0].message


@pytest.mark.parametrize(("offset", "told"), [(0, ["LA102 error"]), (1, []), (2, ["LA102 error"])])
def test_two_tokens_in_turn_show_the_next_one(offset, told):
    """Two ahead is the token itself: either name is right."""
    report, _ = run(shifted(offset), filled(5, 7))
    assert codes(report) == told


def test_one_sample_that_differs_is_enough():
    report, _ = run(shifted(1), [*filled(5)[:1], {"input_ids": torch.arange(24).view(2, 12) + 3}])
    assert report.verdict == "pass"


# -- the labels are seen ------------------------------------------------------------------------------


def test_a_right_loss_is_silent():
    report, code = run(right)
    assert (report.verdict, codes(report), code) == ("pass", [], 0)
    assert report.check("coverage").status == report.check("pairing-text").status == "pass"
    assert report.streams["text"]["sources"] == "inferred"


@pytest.mark.parametrize(("shift", "found"), [(0, "LA102"), (2, "LA103"), (3, "LA104")])
def test_a_wrong_offset_is_named(shift, found):
    report, code = run(lambda model, batch: mean(model(**batch).logits, batch["labels"], shift))
    assert (codes(report), code) == ([f"{found} error"], 1)


@pytest.mark.versions
def test_the_models_own_loss_is_silent_though_its_logits_are_gone_by_the_backward():
    report, _ = run(lambda model, batch: model(**batch).loss)
    assert report.verdict == "pass"


def test_pre_shifted_labels_paired_directly_are_right():
    data = batches(4)
    for batch in data:
        batch["labels"] = torch.cat([batch["labels"][:, 1:], torch.full((2, 1), -100)], 1)
    assert run(lambda model, batch: mean(model(**batch).logits, batch["labels"], 0), data)[0].verdict == "pass"
    report, _ = run(lambda model, batch: model(**batch).loss, data)
    assert codes(report) == ["LA103 error"]


def test_a_masked_answer_is_missed():
    def half(model, batch):
        return mean(model(**batch).logits, batch["labels"].masked_fill(torch.arange(20) < 8, -100))

    report, _ = run(half)
    assert codes(report) == ["LA201 error"]


def test_the_prompt_trained_is_named():
    def all_of_it(model, batch):
        return mean(model(**batch).logits, batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))

    report, _ = run(all_of_it)
    assert codes(report) == ["LA202 error"]


def test_a_swallowed_error_is_named_once_for_all_steps():
    report, code = run(lambda model, batch: (model(**batch), torch.tensor(0.0, requires_grad=True))[1])
    assert (codes(report), code) == (["LA605 error"], 1)
    report, _ = run(lambda model, batch: 0.0 * model(**batch).logits.sum())
    assert codes(report) == ["LA206 error"]


def constant(model, value):
    return torch.tensor(0.0, requires_grad=True) / 2


def detached(model, value):
    return value.detach().requires_grad_()


def of_its_weights_alone(model, value):
    return 0.0 * sum(parameter.sum() for parameter in model.parameters())


@pytest.mark.parametrize("instead", [constant, detached, of_its_weights_alone], ids=lambda one: one.__name__)
def test_an_error_swallowed_in_one_micro_batch_is_named(instead):
    def sometimes(model, batch):
        value, lost = right(model, batch), torch.equal(batch["input_ids"], data[1]["input_ids"])
        return instead(model, value) if lost else value

    data = batches(4, equal=True)
    report, code = run(sometimes, data, accumulate=2)
    assert (codes(report), code) == (["LA605 error"], 1)
    assert "1 of 4 forward passes" in report.findings[0].message


def test_a_micro_batch_without_targets_may_have_a_constant_loss():
    data = batches(4, equal=True)
    data[1]["labels"] = torch.full_like(data[1]["labels"], -100)

    def guarded(model, batch):
        logits = model(**batch).logits
        empty = bool((batch["labels"] == -100).all())
        return torch.tensor(0.0, requires_grad=True) if empty else mean(logits, batch["labels"])

    report, code = run(guarded, data, accumulate=2)
    assert (codes(report), code) == ([], 0)


def skipped(model, batch, other):
    """A batch whose loss is looked at, and not used."""
    right(model, other)


def for_a_critic(model, batch, other):
    """Another model is trained on what this one says, which is cut off; its own turn comes after."""
    critic = nn.Linear(VOCAB, 1)
    critic(model(**other).logits.detach()).mean().backward()


@pytest.mark.parametrize("first", [skipped, for_a_critic], ids=lambda one: one.__name__)
def test_a_forward_without_a_backward_of_its_own_is_a_warning_at_most(first):
    others = iter(batches(4, seed=9))

    def loss(model, batch):
        first(model, batch, next(others))
        return right(model, batch)

    report, code = run(loss)
    assert (codes(report), code) == (["LA605 warning"], 0)


@pytest.mark.versions
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_backwards_within_a_checkpoint_are_none_of_the_scripts(reentrant):
    model = llama()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.config.use_cache = False
    report, code = run(right, batches(4, equal=True), model=model, accumulate=2)
    assert (codes(report), code) == ([], 0)


def test_a_swallowed_error_of_a_frozen_model_in_evaluation_mode_is_named():
    model = llama().eval().requires_grad_(requires_grad=False)
    prompt = nn.Parameter(torch.zeros(32))
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: out + prompt)

    def sometimes(model, batch):
        value = right(model, batch)
        return value if torch.equal(batch["input_ids"], data[0]["input_ids"]) else constant(model, value)

    data = batches(2, equal=True)
    optimizer = torch.optim.SGD([prompt], lr=0.1)
    report, code = watched(lambda: loop(model, sometimes, data, accumulate=2, optimizer=optimizer))
    assert (codes(report), code) == (["LA605 error"], 1)


def test_a_loss_that_is_not_finite():
    report, _ = run(lambda model, batch: right(model, batch) * float("nan"))
    assert codes(report) == ["LA501 error"]


def test_weights_of_sequences_are_a_warning():
    def per_sequence(model, batch):
        logits = model(**batch).logits
        return sum(mean(logits[i : i + 1], batch["labels"][i : i + 1]) for i in range(2)) / 2

    report, code = run(per_sequence, accumulate=2)
    assert (codes(report), code) == (["LA301 warning"], 0)


# -- accumulation -------------------------------------------------------------------------------------


def by_items(model, batch):
    items = batch.pop("items")
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / items


def counted(data, accumulate, count):
    for first in range(0, len(data), accumulate):
        items = sum(count(batch) for batch in data[first : first + accumulate])
        for batch in data[first : first + accumulate]:
            batch["items"] = items
    return data


def targets(batch):
    return int((batch["labels"][:, 1:] != -100).sum())


def test_means_of_micro_batches_are_named():
    report, _ = run(right, accumulate=2)
    assert codes(report) == ["LA302 error"]
    assert report.check("accumulation").status == "fail"


@pytest.mark.parametrize("size", [1, 3])
def test_the_targets_of_the_step_are_silent(size):
    report, _ = run(by_items, counted(batches(6, size), 3, targets), accumulate=3)
    assert (codes(report), report.check("accumulation").status) == ([], "pass")


def test_means_of_equal_micro_batches_are_right_and_prove_nothing():
    report, _ = run(right, batches(4, equal=True), accumulate=2)
    assert (codes(report), report.check("accumulation").status) == ([], "skip")


@pytest.mark.parametrize(("parts", "found"), [(1, []), (2, ["LA302 error"])])
def test_what_a_closure_adds_up_is_one_sum_each_time_it_is_called(parts, found):
    def train():
        model, draw = llama(), iter(batches(60))
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3)

        def closure():
            optimizer.zero_grad()
            for _ in range(parts):
                loss = right(model, next(draw)) / parts
                loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)

    report, _ = watched(train)
    assert codes(report) == found


def test_a_denominator_of_other_tokens_is_named():
    report, _ = run(by_items, counted(batches(4), 1, lambda batch: int(batch["attention_mask"].sum())), accumulate=2)
    assert codes(report) == ["LA302 error"]
    assert "real tokens" in report.findings[0].message


def test_weights_of_samples_are_a_choice():
    weight = iter([1.0, 0.3, 0.8, 0.25])
    report, _ = run(lambda model, batch: right(model, batch) * next(weight), accumulate=2)
    assert codes(report) == []


@pytest.mark.parametrize(("equal", "found"), [(True, []), (False, ["LA301 warning"])])
def test_the_split_of_one_loss_over_several_forwards_is_seen_as_one(equal, found):
    """Of unequal parts it is a mean of means, meant or not."""

    def both(model, batch):
        halves = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(2)]
        return sum(mean(model(**half).logits, half["labels"]) for half in halves) / 2

    report, code = run(both, batches(4, equal=equal))
    assert (codes(report), code) == (found, 0)
    assert (report.streams["text"]["weight_spread"] > 0.1) is not equal


def test_two_passes_of_one_batch_in_one_loss_weigh_alike():
    def r_drop(model, batch):
        one, other = (model(**batch).logits for _ in range(2))
        between = F.kl_div(one.log_softmax(-1), other.log_softmax(-1), log_target=True, reduction="batchmean")
        return (mean(one, batch["labels"]) + mean(other, batch["labels"])) / 2 + 0.01 * between

    report, code = run(r_drop)
    assert (codes(report), code) == ([], 0)


def test_advantages_of_samples_are_no_mean_of_means():
    def policy(model, batch):
        logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
        per_token = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return (per_token * torch.tensor([[0.37], [1.64]])).sum() / (labels != -100).sum()

    report, code = run(policy)
    assert (report.verdict, codes(report), code) == ("pass", [], 0)


# -- the labels are not seen --------------------------------------------------------------------------


def test_without_labels_offsets_are_judged_and_coverage_is_not():
    data = [{**batch, "labels": [batch["labels"]]} for batch in batches(4)]  # where nobody looks for them
    report, code = run(unlabelled(lambda logits, labels: mean(logits, labels[0])), data)
    assert (report.verdict, codes(report), code) == ("incomplete", UNTOLD, 0)
    assert report.check("coverage").status == "skip"
    assert "not given the labels" in report.check("coverage").detail
    assert "expected" not in report.streams["text"]


@pytest.mark.parametrize(("shift", "found"), [(0, "LA102"), (2, "LA103")])
def test_without_labels_a_wrong_offset_is_named(shift, found):
    report, _ = run(unlabelled(lambda logits, labels: mean(logits, labels, shift)))
    assert codes(report) == [f"{found} error"]


def test_inputs_and_labels_cut_beforehand_are_right():
    def cut(model, batch):
        logits = model(batch["input_ids"][:, :-1], attention_mask=batch["attention_mask"][:, :-1]).logits
        return mean(logits, batch["labels"][:, 1:], 0)

    report, _ = run(cut)
    assert codes(report) == UNTOLD


def test_samples_shifted_in_one_piece_cross_their_border():
    data = batches(4, equal=True)
    for batch in data:
        batch["attention_mask"][:] = 1
        batch["labels"] = batch["input_ids"].clone()

    def flat(model, batch):
        labels = batch.pop("labels")
        logits = model(**batch).logits.flatten(0, 1)
        return F.cross_entropy(logits[:-1], labels.flatten()[1:])

    data = [{**batch, "input_ids": torch.randperm(VOCAB)[:40].view(2, 20)} for batch in data]
    for batch in data:
        batch["labels"] = batch["input_ids"].clone()
    report, _ = run(flat, data)
    assert codes(report) == ["LA204 error"]


def test_targets_that_are_no_inputs_are_not_judged():
    def pseudo(logits, labels):
        guess = torch.randint(0, VOCAB, labels.shape, generator=torch.Generator().manual_seed(1))
        return mean(logits, guess.masked_fill(labels == -100, -100))

    report, _ = run(unlabelled(pseudo))
    assert codes(report) == UNTOLD
    assert "none was judged" in report.findings[0].message
    assert report.check("pairing-text").status == "skip"


def test_two_rows_are_too_few_to_accuse():
    def two(logits, labels):
        rows = (torch.arange(20) == 6).expand_as(labels)
        return mean(logits, labels.masked_fill(~rows, -100), 0)

    report, _ = run(unlabelled(two), batches(1), steps=1)
    assert codes(report) == UNTOLD
    assert report.check("pairing-text").status == "skip"


# -- styles -------------------------------------------------------------------------------------------


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
        return right(model, batch)


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


# -- nothing to read ----------------------------------------------------------------------------------


def test_embeddings_that_are_no_ids_are_said_to_be_unreadable():
    def embedded(model, batch):
        noise = torch.randn(2, 20, 32)
        return mean(model(inputs_embeds=noise).logits, batch["labels"])

    report, code = run(embedded)
    assert (codes(report), code) == (UNTOLD, 0)
    assert "input_ids" in report.findings[0].message


def test_a_run_without_a_backward_says_so_and_keeps_its_exit_code():
    report, code = watched(lambda: llama()(**batches(1)[0]), ended=4)
    assert (codes(report), code) == (UNTOLD, 4)
    assert "no backward pass" in report.findings[0].message


def test_a_run_without_a_model_says_so():
    report, code = watched(lambda: None)
    assert (report.verdict, codes(report), code) == ("incomplete", UNTOLD, 0)
    assert "no model" in report.findings[0].message
    assert "no module was called in this process" in report.findings[0].message


def test_a_loop_without_an_optimizer_is_read_all_the_same():
    def by_hand():
        model = llama()
        for batch in batches(3):
            mean(model(**batch).logits, batch["labels"], 0).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None

    report, code = watched(by_hand)
    assert (codes(report), code) == (["LA102 error"], 1)
    assert any("no optimizer step" in note for note in report.notes)


@pytest.mark.parametrize(("lost", "found"), [((), []), ((1,), ["LA605 error"]), ((0, 1, 2), ["LA605 error"])])
def test_a_swallowed_error_is_named_where_no_step_is_seen(lost, found):
    """By an optimizer of copies; or by a loss scaler, which ends the script where there is no gradient."""

    def train():
        model = llama()
        for number, batch in enumerate(batches(3)):
            value = right(model, batch)
            (constant(model, value) if number in lost else value).backward()

    report, code = watched(train)
    assert (codes(report), code) == (found, len(found))
    assert "stepped" not in " ".join(one.message for one in report.findings)


def with_gradients_asked_for(model, data, shift):
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for batch in data:
        grads = torch.autograd.grad(mean(model(**batch).logits, batch["labels"], shift), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()


def with_steps_in_the_backward(model, data, shift):
    own = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

    def step(parameter):
        own[parameter].step()
        own[parameter].zero_grad()

    for parameter in own:
        parameter.register_post_accumulate_grad_hook(step)
    for batch in data:
        mean(model(**batch).logits, batch["labels"], shift).backward()


def against_a_critic(model, data, shift):
    critic = nn.Linear(VOCAB, 1)
    optimizer, others = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, critic))
    for batch in data:
        logits = model(**batch).logits
        critic(logits.detach().softmax(-1)).mean().backward()
        others.step()
        others.zero_grad()
        (mean(logits, batch["labels"], shift) - 0.01 * critic(logits.softmax(-1)).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102 error"])])
@pytest.mark.parametrize("train", [with_gradients_asked_for, with_steps_in_the_backward, against_a_critic])
def test_loops_of_other_kinds(train, shift, found):
    report, _ = watched(lambda: train(llama(), batches(4), shift))
    assert (report.error, codes(report)) == ("", found)


@pytest.mark.versions
def test_a_compiled_model_is_said_to_hide_its_gradients():
    model = torch.compile(llama(), backend="eager")
    report, code = run(right, model=model)
    assert (codes(report), code) == (UNTOLD, 0)
    assert "compiled" in report.findings[0].message


def test_ignored_findings_do_not_count():
    report, code = run(lambda m, b: mean(m(**b).logits, b["labels"], 0), keep=Choice.of("LA102"))
    assert (code, report.check("pairing-text").status) == (0, "skip")


def test_copies_of_a_watched_model_are_its_own():
    copies = []

    def averaged(model, batch):
        copies.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))])  # noqa: S301
        return right(model, batch)

    run(averaged, batches(2))
    for one in copies:
        assert "forward" not in vars(one) or one.forward.__self__ is one
        with torch.no_grad():
            one.lm_head.weight.zero_()
            assert not one(**batches(1)[0]).logits.any()


@pytest.mark.higgs_v2
def test_the_higgs_model_of_transformers_is_read_on_every_stream():
    from probes.batches.barcoded import barcoded_samples
    from probes.batches.barcoded_v2 import collate_v2
    from probes.models import higgs_v2

    data = [collate_v2(barcoded_samples(2, length=96, seed=seed)) for seed in range(2)]
    model = higgs_v2.small_model().train()
    report, _ = run(lambda model, batch: model(**batch).loss, data, model=model)
    assert (report.error, codes(report)) == ("", [])
    assert [report.check(name).status for name in ("pairing-text", "pairing-audio", "coverage")] == ["pass"] * 3

    def copied(model, batch):
        hidden = model.model(**{key: value for key, value in batch.items() if "labels" not in key}).last_hidden_state
        return F.cross_entropy(model.text_lm_head(hidden).flatten(0, 1), batch["labels"].flatten())

    report, _ = run(copied, data, model=model)
    assert codes(report) == ["LA102 error"]


@pytest.mark.higgs
def test_the_released_higgs_model_is_read_on_every_stream():
    def loss(model, batch, text=1, audio=1):
        out = model(**batch)
        labels = batch["label_audio_ids"]
        books = sum(F.cross_entropy(out.audio_logits[:-1, k], labels[k, 1:]) for k in range(8)) / 8
        if audio == 0:
            books = F.cross_entropy(out.audio_logits.permute(1, 2, 0), labels)
        return mean(out.logits, out.expanded_labels, text) + books

    def in_half_precision(model, batch):  # its codebooks are cast once they have a dimension of their own
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model, batch)

    data = [narrow_batch(2, length=96, seed=seed) for seed in range(2)]
    for right in (loss, in_half_precision):
        report, _ = run(right, data, model=narrow_model())
        assert (report.error, codes(report)) == ("", [])
        statuses = [report.check(name).status for name in ("pairing-text", "pairing-audio", "coverage")]
        assert statuses == ["pass"] * 3
    report, _ = run(lambda model, batch: loss(model, batch, audio=0), data, model=narrow_model())
    assert [(found.code, found.stream) for found in report.findings] == [("LA102", "audio")]
    silent = [{key: value for key, value in batch.items() if key != "label_ids"} for batch in data]
    report, _ = run(
        lambda model, batch: model(**batch).audio_logits.logsumexp(-1).sum() * 0, silent, model=narrow_model()
    )
    assert codes(report) == ["LA206 error"]
