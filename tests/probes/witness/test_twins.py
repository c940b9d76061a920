"""Samples alike token by token: which of them a loop skips, or which order it reads them in, their ids do not say."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

__ = -100


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))


def batch():
    """Three samples of the same tokens; the first has no target, the others have different ones."""
    ids = torch.tensor([[5, 6, 7, 8, 9]] * 3)
    labels = torch.tensor([[__] * 5, [__, 6, 7, __, __], [__, __, __, 8, 9]])
    return {"input_ids": ids, "labels": labels}


def one(model, ids, labels):
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def one_by_one(*samples):
    """A loss that goes through these samples, each in a forward of its own."""

    def loss(model, batch):
        return sum(one(model, batch["input_ids"][[n]], batch["labels"][[n]]) for n in samples)

    return loss


def told(model, loss):
    report = check_loss(model, batch(), loss, labels="position_aligned", replay=False)
    return {found.code for found in report.findings if found.is_error}


@pytest.mark.parametrize("samples", [(1, 2), (2, 1)])
def test_a_sample_without_targets_may_be_skipped_in_any_order(model, samples):
    assert told(model, one_by_one(*samples)) == set()


@pytest.mark.parametrize("samples", [(1,), (2,)])
def test_one_that_has_targets_may_not(model, samples):
    assert told(model, one_by_one(*samples)) & {"LA201", "LA203"}


def test_in_one_forward_every_row_is_known_by_its_place(model):
    def mixed_up(model, batch):
        return one(model, batch["input_ids"], batch["labels"].roll(1, 0))

    assert told(model, mixed_up)


@pytest.mark.parametrize("labelled", [0, 1])
def test_the_only_sample_that_has_targets_may_be_the_only_one_given(model, labelled):
    ids = torch.tensor([[5, 6, 7, 8, 9]] * 2)
    labels = torch.full_like(ids, __)
    labels[labelled, 1:] = ids[labelled, 1:]

    def loss(model, batch):
        kept = (batch["labels"] != __).any(1)
        return one(model, batch["input_ids"][kept], batch["labels"][kept])

    report = check_loss(model, {"input_ids": ids, "labels": labels}, loss, labels="position_aligned", replay=False)
    assert not [found.code for found in report.findings if found.is_error]


def four():
    """Two pairs of samples alike, of which different parts are labelled."""
    ids = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]] * 2)
    labels = ids.clone()
    labels[0, :3] = labels[1, :2] = labels[2, 3:] = __
    return {"input_ids": ids, "labels": labels}


def reordered(*order, of=None):
    """A loss that gives the model the whole batch in this order; ``of`` changes the labels before."""

    def loss(model, batch):
        labels = batch["labels"] if of is None else of(batch["labels"].clone())
        return one(model, batch["input_ids"][list(order)], labels[list(order)])

    return loss


def errors(report):
    return {found.code: found.count for found in report.findings if found.is_error}


@pytest.mark.parametrize(
    ("made", "order"),
    [(batch, (2, 1, 0)), (batch, (1, 2, 0)), (four, (3, 2, 1, 0)), (four, (2, 3, 0, 1)), (four, (0, 3, 2, 1))],
)
@pytest.mark.parametrize("replay", [False, True])
def test_a_batch_may_be_read_in_any_order(model, made, order, replay):
    report = check_loss(model, made(), reordered(*order), labels="position_aligned", replay=replay)
    assert (report.verdict, errors(report), report.notes) == ("pass", {}, [])


def without_one(labels):
    labels[1, 2] = __
    return labels


def with_the_prompt(labels):
    labels[2] = torch.tensor([5, 6, 7, 8, 9])
    return labels


@pytest.mark.parametrize(
    ("made", "loss", "found"),
    [
        (batch, reordered(2, 1, 0, of=without_one), {"LA201": 1}),
        (four, reordered(3, 2, 1, 0, of=without_one), {"LA201": 1}),
        (four, reordered(3, 2, 1, 0, of=with_the_prompt), {"LA202": 2}),
    ],
)
@pytest.mark.parametrize("replay", [False, True])
def test_a_fault_in_another_order_keeps_its_name_and_its_sample(model, made, loss, found, replay):
    report = check_loss(model, made(), loss, labels="position_aligned", replay=replay)
    assert errors(report) == found
    (told,) = (one for one in report.findings if one.is_error)
    assert {example.sample for example in told.examples} == {1 if "LA201" in found else 2}


def test_an_offset_in_another_order_is_that_offset(model):
    def loss(model, batch):
        logits, labels = model(input_ids=batch["input_ids"].flip(0)).logits, batch["labels"].flip(0)
        return F.cross_entropy(logits[:, :-2].flatten(0, 1), labels[:, 2:].flatten())

    assert set(errors(check_loss(model, four(), loss, labels="position_aligned", replay=False))) == {"LA103"}


def test_labels_of_another_twin_are_told_by_other_ids(model):
    def loss(model, batch):
        return one(model, batch["input_ids"], batch["labels"].roll(2, 0))

    assert errors(check_loss(model, four(), loss, labels="position_aligned", replay=False))


def test_labels_that_a_loss_holds_back_follow_no_other_ids_and_are_in_order_all_the_same(model):
    labels = four()["labels"]

    def loss(model, batch):
        return one(model, batch["input_ids"].flip(0), labels.flip(0))

    assert errors(check_loss(model, four(), loss, labels="position_aligned", replay=False)) == {}


def test_where_no_other_ids_run_it_is_a_blind_spot(model):
    ids = four()["input_ids"]

    def loss(model, batch):
        if not torch.equal(batch["input_ids"], ids):
            raise ValueError("not the ids that it knows")
        return one(model, batch["input_ids"].flip(0), batch["labels"].flip(0))

    report = check_loss(model, four(), loss, labels="position_aligned", replay=False)
    assert (report.verdict, {found.code for found in report.findings}) == ("incomplete", {"LA804"})


def swapped(out):
    return out.roll(2, 0)


def with_later(out):
    return out + out.roll(-1, 1)


@pytest.mark.parametrize(
    ("leak", "order", "told"),
    [
        (swapped, (0, 1, 2, 3), ("fail", "LA401")),
        (swapped, (3, 2, 1, 0), ("incomplete", "LA805")),  # of the batch as it is each row has read its own tokens
        (with_later, (0, 1, 2, 3), ("fail", "LA401")),
        (with_later, (3, 2, 1, 0), ("fail", "LA401")),
    ],
)
def test_what_a_model_leaks_is_told_in_any_order(model, leak, order, told):
    handle = model.model.norm.register_forward_hook(lambda _module, _args, out: leak(out))
    try:
        report = check_loss(model, four(), reordered(*order), labels="position_aligned")
    finally:
        handle.remove()
    assert (report.verdict, *{one.code for one in report.findings if one.severity != "warning"}) == told
