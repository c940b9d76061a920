"""What is said of training loops: each fault named, each correct one silent, what was not seen not passed."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, mean, watched
from narrow import narrow_batch, narrow_model
from observed_runs import UNTOLD, codes, right, run
from torch import nn


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


def test_a_loss_that_is_not_finite():
    report, _ = run(lambda model, batch: right(model, batch) * float("nan"))
    assert codes(report) == ["LA501 error"]


def test_weights_of_sequences_are_a_warning():
    def per_sequence(model, batch):
        logits = model(**batch).logits
        return sum(mean(logits[i : i + 1], batch["labels"][i : i + 1]) for i in range(2)) / 2

    report, code = run(per_sequence, accumulate=2)
    assert (codes(report), code) == (["LA301 warning"], 0)


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
    for each in (loss, in_half_precision):
        report, _ = run(each, data, model=narrow_model())
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
