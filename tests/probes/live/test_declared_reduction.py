"""A declared reduction under ``run``: whole steps add up to it, over micro-batches, accumulation and ranks."""

import json
import sys
from pathlib import Path

import live_runs
import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, watched

from loss_align import main
from probes.live.declared_reduction import held_to
from probes.live.step_weights import StepWeights, of_all_ranks

ACCUMULATED = 2


def targets(batch):
    return int((batch["labels"][:, 1:] >= 0).sum())


def summed(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def of_samples(model, batch):
    """The means of its samples, added up."""
    logits, labels = model(**batch).logits, batch["labels"][:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    return (losses.sum(1) / (labels >= 0).sum(1)).sum()


#: What each loss makes of a micro-batch of a step that has ``items`` targets.
LOSSES = {
    "one mean": lambda model, batch, items: summed(model, batch) / items,
    "a third of it": lambda model, batch, items: summed(model, batch) / items / 3,
    "divided twice": lambda model, batch, items: summed(model, batch) / items / ACCUMULATED,
    "mean of means": lambda model, batch, items: summed(model, batch) / targets(batch) / ACCUMULATED,
    "means added up": lambda model, batch, items: summed(model, batch) / targets(batch),
    "one target too many": lambda model, batch, items: summed(model, batch) / (items + 1),
    "a sum": lambda model, batch, items: summed(model, batch),
    "a divided sum": lambda model, batch, items: summed(model, batch) / ACCUMULATED,
    "means of samples": lambda model, batch, items: of_samples(model, batch) / (ACCUMULATED * len(batch["labels"])),
    "means of samples, added up": lambda model, batch, items: of_samples(model, batch) / len(batch["labels"]),
}


def found_of(loss, declared, *, equal=False, size=2, steps=2):
    """What is said of steps of two micro-batches, and the line of the checklist."""

    def train():
        model, left = llama(), iter(batches(steps * ACCUMULATED, size, equal=equal))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in zip(left, left, strict=True):
            for batch in step:
                LOSSES[loss](model, batch, sum(map(targets, step))).backward()
            optimizer.step()
            optimizer.zero_grad()

    report, code = watched(train, steps=steps, reduction=declared)
    assert code == int(any(one.is_error for one in report.findings))
    return [(one.code, one.severity, one.message) for one in report.findings], report.check("reduction")


@pytest.mark.parametrize(
    ("loss", "declared", "told"),
    [
        ("one mean", "token-mean", "text: the weights add up to 1 in 2 steps of 2 micro-batches"),
        ("a third of it", "token-mean", "text: the weights add up to 0.3333 in 2 steps of 2 micro-batches"),
        ("means of samples", "sequence-mean", "text: the weights add up to 1 in 2 steps of 2 micro-batches"),
        ("a sum", "sum", "text: a target weighs 1 in 2 steps of 2 micro-batches"),
    ],
)
def test_what_is_declared_and_kept_is_silent(loss, declared, told):
    found, check = found_of(loss, declared)
    assert found == []
    assert (check.status, check.detail) == ("pass", told)


def test_one_sample_a_micro_batch_may_be_a_mean_of_its_own_where_samples_are_to_weigh_alike():
    assert found_of("mean of means", "sequence-mean", size=1)[0] == []
    assert [code for code, *_ in found_of("mean of means", "token-mean", size=1)[0]] == ["LA302"]


@pytest.mark.parametrize(
    ("loss", "declared", "equal", "told"),
    [
        ("mean of means", "token-mean", False, "each is a mean of its own"),
        ("means added up", "token-mean", True, "add up to 2, not 1: each of 2 micro-batches is divided for itself"),
        ("divided twice", "token-mean", False, "add up to 0.5, not 1: it is divided by the number of micro-batches"),
        ("a sum", "token-mean", False, "nothing divides"),
        ("one target too many", "token-mean", True, "add up to 0.9756, not 1 (40 targets)"),
        ("one target too many", "token-mean", False, "add up to another number in each step (0.9"),
        ("means of samples", "token-mean", False, "constant inside each sample"),
        ("one mean", "sequence-mean", False, "of 4 samples of a step, one weighs up to 2."),
        ("means of samples, added up", "sequence-mean", False, "add up to 2, not 1"),
        ("one mean", "sum", False, ", not 1: a mean over "),
        ("a divided sum", "sum", False, "a target weighs 0.5, not 1"),
    ],
)
def test_what_is_declared_and_not_kept_is_named(loss, declared, equal, told):
    found, check = found_of(loss, declared, equal=equal)
    assert [one[:2] for one in found] == [("LA302", "error")]
    assert told in found[0][2]
    assert (check.status, check.detail) == ("fail", "LA302 on text")


def test_a_step_whose_gradients_are_zeroed_in_between_is_as_many_steps():
    def train():
        model = llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(2):
            for _ in range(2):  # as a sharpness-aware optimizer does
                optimizer.zero_grad()
                (summed(model, batch) / targets(batch)).backward()
            optimizer.step()

    report, _ = watched(train, reduction="token-mean")
    assert report.findings == []
    assert report.check("reduction").status == "pass"


def test_weights_of_classes_are_held_to_nothing():
    def train():
        model, weight = llama(), torch.linspace(0.5, 2, 256)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(2):
            logits, labels = model(**batch).logits, batch["labels"]
            F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), weight).backward()
            optimizer.step()
            optimizer.zero_grad()

    report, _ = watched(train, reduction="token-mean")
    assert report.findings == []
    assert report.check("reduction").status == "skip"


# -- ranks ---------------------------------------------------------------------------------------------

FEW, MANY = 12, 40


def of_ranks(declared, weight, *, averaged=True):
    """What is said of one step on two ranks, whose targets weigh ``weight(their number)``, after a way as JSON."""
    ranks = [
        StepWeights(count, (count * weight(count),), plain=True, labels=count, means=(weight(count),), sole=True)
        for count in (FEW, MANY)
    ]
    payloads = [json.loads(json.dumps({"step_weights": [{"text": one.as_dict()}]})) for one in ranks]
    return [one.message for one in held_to(declared, of_all_ranks(payloads), [], averaged=averaged)[0]]


def test_one_mean_over_all_ranks_whose_gradients_are_averaged():
    assert of_ranks("token-mean", lambda count: 2 / (FEW + MANY)) == []
    assert "add up to 0.5, not 1" in of_ranks("token-mean", lambda count: 1 / (FEW + MANY))[0]
    assert of_ranks("token-mean", lambda count: 1 / (FEW + MANY), averaged=False) == []  # they may be added up
    assert "times as much" in of_ranks("token-mean", lambda count: 1 / count)[0]


def test_a_sum_on_every_rank():
    assert of_ranks("sum", lambda count: 1) == []
    assert "times as much" in of_ranks("sum", lambda count: 1 / count)[0]


# -- the command ---------------------------------------------------------------------------------------

SCRIPT = """
import sys, torch, torch.nn.functional as F
sys.path.insert(0, sys.argv[1])
from live_runs import batches, llama

model = llama()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for batch in batches(2):
    logits, labels = model(**batch).logits, batch["labels"][:, 1:]
    F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction=sys.argv[2]).backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize(("reduction", "code"), [("mean", 0), ("sum", 1)])
def test_the_command_takes_a_declared_reduction(reduction, code, tmp_path, monkeypatch, capsys):
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    (tmp_path / "train.py").write_text(SCRIPT)
    script = [str(tmp_path / "train.py"), str(Path(live_runs.__file__).parent), reduction]
    assert main(["run", "--reduction", "token-mean", *script]) == code
    assert ("✗ reduction" if code else "✓ reduction") in capsys.readouterr().err
