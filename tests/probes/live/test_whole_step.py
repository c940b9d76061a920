"""What the targets of a whole step are divided by: a count that was handed on, on one rank, and on several."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, watched

from probes.live.handed_count import count_in_reach
from probes.live.step_weights import StepWeights
from probes.live.whole_step import of_ranks

ACCUMULATED = 2


def targets(batch):
    return int((batch["labels"][:, 1:] >= 0).sum())


def summed(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def micro_batch(model, batch, divided, num_items_in_batch):
    """As a Trainer calls it: the count of the step is a variable above the forward."""
    loss = summed(model, batch)
    (loss / num_items_in_batch if divided else loss / targets(batch)).backward()


def codes_of(count, *, divided=True, data=None):
    """What is said of a loop whose steps of two micro-batches hand on ``count(step)``."""

    def train():
        model, left = llama(), iter(data or batches(2 * ACCUMULATED))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in zip(left, left, strict=True):
            for batch in step:
                micro_batch(model, batch, divided, count(step))
            optimizer.step()
            optimizer.zero_grad()

    report, code = watched(train)
    assert report is not None
    return [f"{one.code} {one.severity}" for one in report.findings], code, report


def all_targets(step):
    return sum(map(targets, step))


def all_labels(step):
    return sum(int((batch["labels"] >= 0).sum()) for batch in step)


@pytest.mark.parametrize("form", [int, float, torch.tensor], ids=["int", "float", "tensor"])
def test_a_count_of_the_targets_is_right(form):
    assert codes_of(lambda step: form(all_targets(step)))[:2] == ([], 0)


def test_a_count_that_is_a_little_off_is_named_with_its_numbers():
    found, code, report = codes_of(lambda step: all_targets(step) - 4)
    assert (found, code) == (["LA302 error"], 1)
    told = all_targets(batches(2 * ACCUMULATED)[:2])
    message = report.findings[0].message
    assert message.startswith(f"text: a step of {told} targets is divided by {told - 4} (num_items_in_batch)")
    assert report.check("accumulation").status == "fail"


def test_first_labels_that_are_counted_are_nothing_that_a_loss_could_mend():
    """As Trainer counts before transformers 5."""
    data = batches(2 * ACCUMULATED)
    for batch in data:
        batch["labels"][:, 0] = batch["input_ids"][:, 0]  # labelled, and no row predicts it
        batch["labels"][:, 1:] = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
    assert codes_of(all_targets, data=data)[0] == []
    assert codes_of(all_labels, data=data)[:2] == ([], 0)
    assert codes_of(lambda step: all_labels(step) + 1, data=data)[0] == ["LA302 error"]


def test_a_count_that_is_handed_on_and_not_divided_by_is_named():
    equal = batches(2 * ACCUMULATED, equal=True)
    found, _, report = codes_of(all_targets, divided=False, data=equal)
    assert found == ["LA302 error"]
    assert "adds up to 2: the count that it was handed" in report.findings[0].message
    assert codes_of(lambda step: None, divided=False, data=equal)[0] == []  # equal means may be added up knowingly


def test_the_nearest_frame_that_knows_the_name_tells_the_count():
    def inner(num_items_in_batch):
        return count_in_reach(sys._getframe())

    def outer(num_items_in_batch, within):
        return inner(within)

    assert outer(3, 7) == 7.0
    assert outer(3, None) is None
    assert inner(torch.tensor([5])) == 5.0
    assert inner(torch.tensor([5, 5])) is inner(True) is None
    assert count_in_reach(sys._getframe()) is None


# -- ranks ---------------------------------------------------------------------------------------------

FEW, MANY = 12, 40


def rank(targets, weight, **more):
    return StepWeights(targets, (targets * weight,), plain=True, labels=targets, **more)


def said(*ranks, averaged=True, found=()):
    payloads = [{"rank": n, "step_weights": [{"text": one.as_dict()}]} for n, one in enumerate(ranks)]
    return of_ranks(payloads, found, averaged=averaged)


def codes(findings):
    return [f"{one.code} {one.severity}" for one in findings]


def test_ranks_that_each_divide_by_their_own_targets():
    found = said(rank(MANY, 1 / MANY), rank(FEW, 1 / FEW))
    assert codes(found) == ["LA301 warning"]
    assert "0.650 on rank 0 (40 targets), 2.167 on rank 1 (12 targets)" in found[0].message
    assert said(rank(MANY, 1 / MANY), rank(FEW, 1 / FEW), found=found) == []  # told once
    assert said(rank(MANY, 1 / MANY), rank(MANY, 1 / MANY)) == []  # nothing to tell it by


def test_many_ranks_are_told_by_their_range():
    found = said(*(rank(10 + n, 1 / (10 + n)) for n in range(8)))
    assert "on rank 0 (10 targets)" in found[0].message
    assert "on rank 7 (17 targets)" in found[0].message
    assert "rank 3" not in found[0].message


def test_one_mean_over_all_ranks_is_right():
    one = 2 / (MANY + FEW)
    assert said(rank(MANY, one), rank(FEW, one)) == []
    counted = {"count": float(MANY + FEW)}
    assert said(rank(MANY, one, **counted), rank(FEW, one, **counted)) == []


def test_a_mean_over_all_ranks_that_is_averaged_once_more():
    one = 1 / (MANY + FEW)
    assert codes(said(rank(MANY, one), rank(FEW, one))) == ["LA302 warning"]
    counted = {"count": float(MANY + FEW)}
    assert codes(said(rank(MANY, one, **counted), rank(FEW, one, **counted))) == ["LA302 error"]
    assert said(rank(MANY, one), rank(FEW, one), averaged=False) == []  # they may be added up


def test_a_count_of_all_ranks_that_is_off():
    count = float(MANY + FEW + 3)
    found = said(*(rank(targets, 2 / count, count=count) for targets in (MANY, FEW)))
    assert codes(found) == ["LA302 error"]
    assert "52 targets of all ranks is divided by 55" in found[0].message


def test_a_count_of_each_rank_that_is_off():
    ranks = [rank(targets, 1 / (targets - 2), count=float(targets - 2)) for targets in (MANY, FEW)]
    assert codes(said(*ranks)) == ["LA302 error"]


def test_weights_that_nobody_could_read_or_that_differ_tell_no_count():
    one = replace(rank(MANY, 1 / 50, count=50.0), plain=False)
    assert said(one, one) == []
    assert of_ranks([{"rank": 0, "step_weights": []}, {"rank": 1}], []) == []
