"""Steps of several micro-batches: what is not divided by the targets of the whole step is named."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, mean, watched
from observed_runs import codes, right, run


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
