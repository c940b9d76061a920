"""Soft targets by replay: which row of the teacher a row of the student is paired with."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import tiny_model
from torch import nn

from probes import check_loss

LENGTH = 24


def tokens():
    return torch.randint(4, 128, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def batch():
    x = tokens()
    return {"input_ids": x, "labels": x.masked_fill(torch.arange(LENGTH) < 8, -100)}


def student():
    return tiny_model("LlamaForCausalLM", vocab_size=128)


def teacher():
    model = tiny_model("LlamaForCausalLM", vocab_size=128, hidden_size=16)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


#: First and last row (from the end) of student and teacher, and what that makes of their targets.
CUTS = {
    "right": ((0, -1), (0, -1), []),
    "student ahead": ((1, None), (0, -1), ["LA102"]),
    "teacher ahead": ((0, -1), (1, None), ["LA103"]),
    "teacher two ahead": ((0, -3), (2, -1), ["LA104"]),
}


def distil(mine, theirs, *, hard=0.0, divergence=F.kl_div, teach=None):
    taught_by = teach or teacher()

    def loss(model, given):
        x = given["input_ids"]
        with torch.no_grad():
            goal = taught_by(input_ids=x).logits[:, slice(*theirs)].softmax(-1)
        logits = model(input_ids=x).logits[:, slice(*mine)]
        labels = F.pad(given["labels"][:, 1:], (0, 1), value=-100)[:, : logits.shape[1]]
        kept = (labels != -100)[..., None]
        soft = (divergence(logits.log_softmax(-1), goal, reduction="none") * kept).sum() / kept.sum()
        return soft + hard * F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return loss


def errors(report):
    return [one.code for one in report.findings if one.is_error]


@pytest.mark.parametrize("hard", [0.0, 1.0], ids=["soft alone", "a hard loss beside it"])
@pytest.mark.parametrize("kind", [kind for kind in CUTS if kind != "student ahead"])
def test_the_offset_of_soft_targets(kind, hard):
    mine, theirs, said = CUTS[kind]
    report = check_loss(student(), batch(), distil(mine, theirs, hard=hard))
    assert errors(report) == said
    if said:
        assert report.check("pairing-text").status == "fail"
        assert not [one for one in report.findings if one.code in ("LA201", "LA802")]
    else:
        assert report.verdict == ("pass" if hard else "incomplete")
        assert "soft targets stand at offset +1" in " ".join(report.notes)


def test_a_student_one_row_ahead_of_its_teacher_is_a_copy_and_no_missing_target():
    mine, theirs, said = CUTS["student ahead"]
    assert errors(check_loss(student(), batch(), distil(mine, theirs))) == said


def test_the_model_before_its_training_may_be_the_teacher():
    model = student()
    for hard in (0.0, 1.0):  # a hard loss beside it outweighs such a teacher by far
        assert errors(check_loss(model, batch(), distil((0, -1), (1, None), hard=hard, teach=model))) == ["LA103"]
    assert errors(check_loss(model, batch(), distil((0, -1), (0, -1), teach=model))) == []


def test_half_the_rows_of_a_jensen_shannon_teacher():
    def skewed(logs, goal, **kwargs):
        return F.kl_div((0.5 * logs.exp() + 0.5 * goal).log(), goal, **kwargs)

    assert errors(check_loss(student(), batch(), distil((0, -1), (0, -1), divergence=skewed))) == []
    assert errors(check_loss(student(), batch(), distil((0, -1), (1, None), divergence=skewed))) == ["LA103"]


# -- what is no offset of a teacher -----------------------------------------------------------------------


def smoothed(model, given):
    """Targets taken from the ids, which replay replaces."""
    x = given["input_ids"]
    return F.cross_entropy(model(x).logits[:, 7:-1].flatten(0, 1), x[:, 8:].flatten(), label_smoothing=0.2)


def weighted_by_token(model, given):
    x = given["input_ids"]
    weights = torch.linspace(0.5, 2, 128)
    lost = F.cross_entropy(model(x).logits[:, 7:-1].flatten(0, 1), x[:, 8:].flatten(), reduction="none")
    return (lost * weights[x[:, 8:].flatten()]).mean() + 1e-3 * model(x).logits.logsumexp(-1).square().mean()


def both_ways():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.body = nn.Embedding(128, 16), nn.GRU(16, 16, batch_first=True, bidirectional=True)
            self.head = nn.Linear(32, 128)

        def forward(self, input_ids):
            logits = 5 * self.head(self.body(self.embed(input_ids))[0])
            return type("Output", (), {"logits": logits})

    return Both()


@pytest.mark.parametrize(
    "loss",
    [smoothed, weighted_by_token, distil((0, -1), (0, -1), hard=1.0, teach=both_ways())],
    ids=["smoothing", "weights by token", "a teacher that reads both ways"],
)
def test_what_moves_with_the_inputs_and_is_no_other_row_of_a_teacher(loss):
    report = check_loss(student(), batch(), loss)
    assert errors(report) == [], report.in_short()
