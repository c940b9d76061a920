"""Rows that have a penalty and no target: what is untrained behind one is missed; smoothing stays where it belongs."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import tiny_model

from probes import check_loss
from probes.witness import penalised


def pairs(model, batch, first=0):
    logits = model(input_ids=batch["input_ids"]).logits
    return logits, logits[first:, :-1].flatten(0, 1), batch["labels"][first:, 1:].flatten()


def squares(first):
    def loss(model, batch):
        logits, rows, labels = pairs(model, batch, first)
        return F.cross_entropy(rows, labels) + 1e-5 * logits.pow(2).mean()

    return loss


def entropy(first):
    def loss(model, batch):
        logits, rows, labels = pairs(model, batch, first)
        return F.cross_entropy(rows, labels) + 1e-3 * (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()

    return loss


def smoothed(everywhere):
    def loss(model, batch):
        _, rows, labels = pairs(model, batch)
        log, keep = rows.log_softmax(-1), labels != -100
        hard = -log.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        flat = -log.mean(-1)
        flat = flat if everywhere else flat * keep
        return (0.9 * (hard * keep).sum() + 0.1 * flat.sum()) / keep.sum()

    return loss


def batch():
    given = text_batch()
    labels = given["labels"].clone()
    labels[:, :4] = -100
    return {**given, "labels": labels}


@pytest.mark.parametrize("penalty", [squares, entropy])
def test_a_penalty_hides_no_sample_that_is_not_trained(penalty):
    model = tiny_model("LlamaForCausalLM")
    right = check_loss(model, batch(), penalty(0))
    assert (right.verdict, right.findings) == ("pass", [])
    assert right.check("pairing-text").status == "pass", "rows without a target that have one are read as such"
    found = check_loss(model, batch(), penalty(1)).findings
    assert [(one.code, one.stream) for one in found] == [("LA201", "text")]
    assert found[0].count == int((batch()["labels"][0] != -100).sum())


def test_smoothing_that_reaches_rows_without_a_target():
    model = tiny_model("LlamaForCausalLM")
    (found,) = check_loss(model, batch(), smoothed(everywhere=True)).findings
    labels = batch()["labels"]
    assert (found.code, found.stream, found.severity) == ("LA202", "text", "error")
    assert found.count == int((labels[:, 1:] == -100).sum())
    assert check_loss(model, batch(), smoothed(everywhere=False)).verdict == "pass"
    assert (
        check_loss(model, batch(), lambda m, b: F.cross_entropy(*pairs(m, b)[1:], label_smoothing=0.1)).findings == []
    )


def test_a_teacher_is_no_penalty():
    """Its rows stay unread: they name no token, and nothing says that they are untrained."""
    model, teacher = tiny_model("LlamaForCausalLM"), torch.randn(1000, 4096, generator=torch.Generator().manual_seed(0))

    def loss(model, batch):
        logits, _, _ = pairs(model, batch)
        rows = logits.flatten(0, 1)
        soft = teacher[: len(rows), : rows.shape[-1]].mul(2).softmax(-1)
        return F.kl_div(rows.log_softmax(-1), soft, reduction="batchmean")

    report = check_loss(model, batch(), loss)
    assert [(one.code, one.stream) for one in report.findings] == [("LA802", "text")]


def test_nothing_is_run_once_more_for_a_loss_that_is_read(monkeypatch):
    ran = []
    monkeypatch.setattr(penalised, "run_penalties", lambda *_: ran.append(1) or [torch.zeros(0)])
    model = tiny_model("LlamaForCausalLM")
    check_loss(model, batch(), lambda m, b: F.cross_entropy(*pairs(m, b)[1:]), replay=False)
    assert ran == []
