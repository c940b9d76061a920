"""Soft targets under `run`: which row of the teacher a row of the student is paired with, read off its gradient."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, watched
from torch import nn

#: First and last row (from the end) of student and teacher, and what that makes of their targets.
CUTS = {
    "right": ((0, -1), (0, -1), []),
    "student ahead": ((1, None), (0, -1), ["LA102"]),
    "teacher ahead": ((0, -1), (1, None), ["LA103"]),
}


def teacher():
    model = llama().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def distilled(kind, *, hard=0.0, first=False, teach=None, mixed=True):
    """A watched loop of a student and its teacher, who speaks ``first`` or after it."""
    mine, theirs, _ = CUTS[kind]
    taught_by = teach or teacher()

    def loss(model, batch):
        labels, given = batch.pop("labels"), dict(batch)
        if not mixed:  # another text of the same length
            given["input_ids"] = given["input_ids"].flip(1)
        if first:
            with torch.no_grad():
                goal = taught_by(**given).logits
        logits = model(**batch).logits
        if not first:
            with torch.no_grad():
                goal = taught_by(**given).logits
        logits, goal = logits[:, slice(*mine)], goal[:, slice(*theirs)]
        labels = labels[:, 1:]
        kept = (labels != -100)[..., None]
        soft = F.kl_div(logits.log_softmax(-1), goal.softmax(-1), reduction="none")
        told = (soft * kept).sum() / kept.sum()
        return told + hard * F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return watched(lambda: loop(llama(), loss, batches(3)))[0]


def errors(report):
    return [one.code for one in report.findings if one.is_error]


@pytest.mark.parametrize("first", [False, True], ids=["after the student", "before it"])
@pytest.mark.parametrize("kind", CUTS)
def test_the_offset_of_soft_targets(kind, first):
    report = distilled(kind, first=first)
    assert errors(report) == CUTS[kind][2]
    assert not [one for one in report.findings if one.code == "LA201"]
    if kind == "right":
        assert report.verdict == "incomplete"
        assert "soft targets stand at offset +1" in " ".join(report.notes)
    else:
        assert report.check("pairing-text").status == "fail"


def test_a_hard_loss_that_outweighs_its_teacher_hides_nothing():
    assert errors(distilled("teacher ahead", hard=20.0)) == ["LA103"]
    report = distilled("right", hard=20.0)
    assert errors(report) == []


def test_a_teacher_of_another_text_says_nothing():
    report = distilled("teacher ahead", mixed=False)
    assert errors(report) == []
    assert report.verdict == "incomplete"


def test_what_soft_targets_train_may_not_see_what_follows():
    student = llama()
    student.model.norm.register_forward_hook(lambda *called: called[2] + 0.1 * called[2].roll(-1, dims=1))
    taught_by = teacher()

    def loss(model, batch):
        del batch["labels"]
        with torch.no_grad():
            goal = taught_by(**batch).logits
        return F.kl_div(model(**batch).logits.log_softmax(-1), goal.softmax(-1), reduction="batchmean")

    report, _ = watched(lambda: loop(student, loss, batches(3)))
    assert "LA401" in errors(report)


class Frozen(nn.Module):
    """Logits that no teacher has made, of the width of the vocabulary."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Embedding(VOCAB, VOCAB)

    def forward(self, input_ids):
        return self.inner(input_ids)


def test_logits_that_the_loss_does_not_use_explain_nothing():
    aside = Frozen().requires_grad_(requires_grad=False)

    def loss(model, batch):
        told = model(**batch).loss
        aside(batch["input_ids"])
        return told

    report, code = watched(lambda: loop(llama(), loss, batches(3)))
    assert (report.findings, code) == ([], 0)
