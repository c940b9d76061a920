"""A declared reduction: what keeps to it raises nothing, what does not is LA302, and only then."""

import functools

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, higgs_batch, higgs_model
from fault_matrix import model_for, text_batch
from random_models import model_of
from transformers import LlamaConfig, LlamaForCausalLM

from probes import UsageError, check_loss

pytestmark = pytest.mark.usefixtures("no_lines")

IGNORE = -100


def pairs(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()


def token_mean(model, batch):
    return F.cross_entropy(*pairs(model, batch))


def summed(model, batch, **options):
    return F.cross_entropy(*pairs(model, batch), reduction="sum", **options)


def over_a_constant(model, batch):
    return summed(model, batch) / 100


def over_samples(model, batch):
    return summed(model, batch) / len(batch["labels"])


def sequence_mean(model, batch):
    parts = [{key: value[n : n + 1] for key, value in batch.items()} for n in range(len(batch["labels"]))]
    return torch.stack([token_mean(model, part) for part in parts]).mean()


def of_the_step(model, batch, num_items_in_batch=1):
    return summed(model, batch) / num_items_in_batch


def deaf_to_the_count(model, batch, num_items_in_batch=1):
    return token_mean(model, batch)


def one_too_many(model, batch):
    return summed(model, batch) / ((batch["labels"] != IGNORE).sum() + 1)


def classes():
    return torch.where(torch.arange(512) % 3 == 0, 0.5, 1.0)


def weighted_mean(model, batch):
    return F.cross_entropy(*pairs(model, batch), weight=classes())


def weighted_sum(model, batch):
    return summed(model, batch, weight=classes())


def weighted_of_the_step(model, batch, num_items_in_batch=1):
    return summed(model, batch, weight=classes()) / num_items_in_batch


@pytest.mark.parametrize(
    ("loss", "reduction", "accumulated", "wrong"),
    [
        (token_mean, "token-mean", 1, ""),
        (token_mean, "token-mean", 2, "once the step is split"),
        (token_mean, "sequence-mean", 1, "samples of one batch weigh differently"),
        (token_mean, "sum", 1, "changes with the batch"),
        (over_a_constant, "sum", 2, ""),
        (over_a_constant, "token-mean", 1, "add up differently"),
        (over_samples, "sum", 1, "changes with the batch"),
        (sequence_mean, "sequence-mean", 1, ""),
        (sequence_mean, "sequence-mean", 3, ""),
        (sequence_mean, "token-mean", 1, "a mean of means"),
        (of_the_step, "token-mean", 3, ""),
        (deaf_to_the_count, "token-mean", 1, ""),
        (deaf_to_the_count, "token-mean", 3, "num_items_in_batch is given and not divided by"),
        (one_too_many, "token-mean", 1, "add up differently"),
        (weighted_mean, "token-mean", 1, ""),
        (weighted_sum, "sum", 2, ""),
        (weighted_of_the_step, "token-mean", 3, ""),
    ],
)
def test_a_declared_reduction(loss, reduction, accumulated, wrong):
    report = check_loss(model_for("llama"), text_batch(3), loss, reduction=reduction, grad_accum=accumulated)
    assert [finding.code for finding in report.findings] == ["LA302"] * bool(wrong)
    assert all(wrong in finding.message for finding in report.findings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("loss", "codes"), [(token_mean, []), (one_too_many, ["LA302"])])
def test_a_hundredth_of_a_denominator_shows(loss, codes, dtype):
    """A hundred targets, and one that is counted too much: a factor of 1.01."""
    ids = torch.randint(3, 128, (2, 51), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, 41:] = IGNORE
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    report = check_loss(model_for("llama", dtype), batch, loss, reduction="token-mean", replay=False)
    assert [finding.code for finding in report.findings] == codes


@pytest.mark.parametrize("loss", [token_mean, over_a_constant, one_too_many, of_the_step, weighted_sum])
def test_nothing_is_held_to_what_nobody_declared(loss):
    assert check_loss(model_for("llama"), text_batch(3), loss).findings == []


def test_a_count_that_is_dropped_shows_on_micro_batches_of_one_size():
    """Their weights stay in proportion, and are as many times too large as the step has micro-batches."""
    batch = {key: value[:1].repeat(3, 1) for key, value in text_batch(3).items()}
    batch["input_ids"] = batch["input_ids"] + torch.arange(3)[:, None]
    batch["labels"] = torch.where(batch["labels"] == IGNORE, IGNORE, batch["input_ids"])
    assert check_loss(model_for("llama"), batch, token_mean, grad_accum=3).findings == []
    assert check_loss(model_for("llama"), batch, of_the_step, grad_accum=3).findings == []
    (found,) = check_loss(model_for("llama"), batch, deaf_to_the_count, grad_accum=3).findings
    assert found.code == "LA302"
    assert "targets weigh 3 times as much once the step is split" in found.message


def test_a_step_counts_the_targets_after_the_shift():
    batch, counts = text_batch(3), set()
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)

    def loss(model, part, num_items_in_batch=None):
        counts.add(None if num_items_in_batch is None else int(num_items_in_batch))
        return token_mean(model, part)

    check_loss(model_for("llama"), batch, loss, grad_accum=3)
    assert int((batch["labels"][:, 1:] != IGNORE).sum()) in counts
    assert int((batch["labels"] != IGNORE).sum()) not in counts


class Asking:
    """A loss that asks for the count by its last parameter."""

    def method(self, model, batch, num_items_in_batch):
        return summed(model, batch) / num_items_in_batch

    __call__ = method


def around(loss):
    @functools.wraps(loss)
    def inner(*args, **kwargs):
        return loss(*args, **kwargs)

    return inner


@pytest.mark.parametrize(
    "loss",
    [
        of_the_step,
        Asking().method,
        Asking(),
        functools.partial(Asking.method, None),
        around(Asking().method),
        lambda model, batch, *, num_items_in_batch: summed(model, batch) / num_items_in_batch,
    ],
    ids=["function", "method", "object", "partial", "wrapped", "keyword"],
)
def test_whatever_is_called_may_ask_for_the_count(loss):
    assert check_loss(model_for("llama"), text_batch(3), loss, reduction="token-mean", grad_accum=3).findings == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_that_asks_is_told_the_targets_of_every_stream(family):
    model, told = higgs_model(family, hidden=16, layers=1), []
    batch = higgs_batch(model)

    def loss(model, batch, num_items, num_items_in_batch):
        told.append(({name: int(count) for name, count in num_items.items()}, int(num_items_in_batch)))
        return model(**batch).logits.sum() * 0

    check_loss(model, batch, loss)
    wanted = {"text": 56, **{f"audio[{k}]": 22 for k in range(8)}}
    assert told == [(wanted, 56)] * len(told)
    assert told


def test_a_batch_without_text_labels_has_no_count_as_in_the_trainer():
    batch, told = text_batch(2), []
    del batch["labels"]

    def loss(model, batch, num_items_in_batch):
        told.append(num_items_in_batch)
        return model(**batch).logits.sum() * 0

    check_loss(model_for("llama"), batch, loss)
    assert set(told) == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "mean"}, "unknown --reduction 'mean': choose one of token-mean, sequence-mean, sum"),
        ({"grad_accum": 4}, "at least 4 parts, it has 3 samples: raise --batch-size"),
    ],
)
def test_what_cannot_be_declared(options, message):
    with pytest.raises(UsageError, match=message):
        check_loss(model_for("llama"), text_batch(3), token_mean, **options)


def test_a_reduction_that_could_not_be_checked_is_said():
    """The loss is right on two samples, and squeezes the only one of a part away."""

    def squeezed(model, batch):
        logits, labels = model(**batch).logits[:, :-1].squeeze(0), batch["labels"][:, 1:].squeeze(0)
        return F.cross_entropy(logits.transpose(1, -1) if logits.dim() == 3 else logits.T, labels)

    report = check_loss(model_for("llama"), text_batch(2), squeezed, reduction="token-mean")
    assert (report.verdict, report.check("reduction").status) == ("pass", "skip")
    assert "does not run on a part of the batch" in report.check("reduction").detail
    for declared, status in (("token-mean", "pass"), ("sum", "fail")):
        report = check_loss(model_for("llama"), text_batch(2), token_mean, reduction=declared)
        assert report.check("reduction").status == status


def test_a_loss_that_raises_on_a_sample_without_targets_is_judged_on_the_batch():
    """A mean of none is refused by some losses; the batch as a whole is no less wrong for it."""

    def categorical(model, batch):
        logits, labels = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:].clone()
        labels[0] = -100
        kept = labels != -100
        if not kept.any():
            raise RuntimeError("no targets to be distributed over")
        return -torch.distributions.Categorical(logits=logits[kept]).log_prob(labels[kept]).mean()

    report = check_loss(model_for("llama"), text_batch(3), categorical, reduction="token-mean")
    assert {one.code for one in report.findings if one.is_error} == {"LA201"}
    assert report.check("reduction").status == "skip"
    assert "no targets to be distributed over" in report.check("reduction").detail


def rounded(kind):
    """Logits that pass through numbers of another kind, under parameters in float32."""

    def loss(model, batch, num_items_in_batch=1):
        logits, labels = pairs(model, batch)
        return F.cross_entropy(logits.to(kind).float(), labels, reduction="sum") / num_items_in_batch

    return loss


def shaped(form):
    """Weights that depend on how likely the target is, or on what else is smoothed."""

    def loss(model, batch, num_items_in_batch=1):
        logits, labels = pairs(model, batch)
        each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1 * (form == "smoothing"))
        likely = (-each).exp()
        each = {"focal": each * (1 - likely) ** 2, "poly": each + 1 - likely, "smoothing": each}[form]
        return (each * (labels != IGNORE)).sum() / num_items_in_batch

    return loss


KEEPING = {
    "bfloat16": rounded(torch.bfloat16),
    "float16": rounded(torch.float16),
    **{form: shaped(form) for form in ("focal", "poly", "smoothing")},
}


@pytest.fixture(scope="module")
def small():
    """A model of 40 ids and a batch of unequal answers: what depends on the noise shows in a small vocabulary."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = torch.randint(3, 40, (3, 14), generator=torch.Generator().manual_seed(1))
    hidden = torch.arange(14) < torch.tensor([2, 5, 8])[:, None]
    labels = ids.masked_fill(hidden, IGNORE)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)), batch


@pytest.mark.parametrize("loss", KEEPING.values(), ids=KEEPING)
def test_roundings_and_weights_that_depend_on_the_target_are_no_other_denominator(loss, small):
    report = check_loss(*small, loss, reduction="token-mean", grad_accum=2, replay=False)
    assert [one.code for one in report.findings] == []


@pytest.mark.parametrize("loss", KEEPING.values(), ids=KEEPING)
def test_and_a_count_that_is_one_too_many_shows_through_them(loss, small):
    def wrong(model, batch):
        return loss(model, batch, (batch["labels"][:, 1:] != IGNORE).sum() + 1)

    found = check_loss(*small, wrong, reduction="token-mean", replay=False).findings
    assert [one.code for one in found] == ["LA302"]


def test_a_count_that_is_divided_by_and_then_the_micro_batches_once_more():
    def twice(model, batch, num_items_in_batch=1):
        return summed(model, batch) / num_items_in_batch / 2

    report = check_loss(model_for("llama"), text_batch(3), twice, reduction="token-mean", grad_accum=2)
    assert [one.code for one in report.findings] == ["LA302"]
    assert "add up to 1/2: num_items_in_batch is divided by" in report.findings[0].message


def test_samples_of_one_length_hide_no_sum():
    ids = text_batch(2)["input_ids"]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    assert not check_loss(model_for("llama"), batch, token_mean, reduction="token-mean").findings
    report = check_loss(model_for("llama"), batch, summed, reduction="token-mean")
    assert [one.code for one in report.findings] == ["LA302"]
    assert "the denominator counts other tokens" in report.findings[0].message


# -- streams that are declared, or found ---------------------------------------------------------------

BOOKS = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "labels[:, {k}]"}}


def over_all_books(model, batch):
    logits, labels = model(batch["codes"]), batch["labels"][..., 1:]
    parts = [F.cross_entropy(z[:, :-1].mT, labels[:, k], reduction="sum") for k, z in enumerate(logits)]
    return sum(parts) / (labels != IGNORE).sum()


def book_by_book_and_sample(model, batch):
    logits, labels = model(batch["codes"]), batch["labels"][..., 1:]
    means = [F.cross_entropy(z[n, :-1], labels[n, k]) for k, z in enumerate(logits) for n in range(len(labels))]
    return torch.stack(means).mean()


@pytest.mark.parametrize("streams", [BOOKS, None], ids=["declared", "found"])
@pytest.mark.parametrize(("loss", "codes"), [(over_all_books, []), (book_by_book_and_sample, ["LA302"])])
def test_a_reduction_of_streams_that_nobody_knows_beforehand(loss, codes, streams):
    ids = torch.randint(3, 60, (3, 2, 10), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, :, 7:] = IGNORE
    batch = {"codes": ids, "labels": labels}
    report = check_loss(model_of("books", 64), batch, loss, streams=streams, reduction="token-mean", replay=False)
    assert [finding.code for finding in report.findings] == codes
