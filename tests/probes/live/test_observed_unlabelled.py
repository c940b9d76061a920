"""Loops that keep their labels to themselves: offsets are judged, and coverage is not."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, mean
from observed_runs import UNTOLD, codes, run, unlabelled


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
