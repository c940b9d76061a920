"""Rows that have a penalty and no target: whatever it is, it treats all tokens alike."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import VOCAB, tiny_model

from probes import check_loss

PENALTIES = {
    "entropy at a temperature": lambda z: ((z / 0.7).softmax(-1) * (z / 0.7).log_softmax(-1)).sum(-1),
    "entropy in half precision": lambda z: (z.bfloat16().softmax(-1) * z.bfloat16().log_softmax(-1)).sum(-1),
    "two at once": lambda z: z.logsumexp(-1).square() + (z.softmax(-1) * z.log_softmax(-1)).sum(-1),
    "of some columns": lambda z: (z[..., :-4].softmax(-1) * z[..., :-4].log_softmax(-1)).sum(-1),
}
TEACHERS = {
    "a teacher": lambda z: -(torch.linspace(-2, 2, VOCAB).softmax(-1) * z.log_softmax(-1)).sum(-1),
    "a weight for each token": lambda z: (torch.arange(VOCAB) % 3 * z.square()).sum(-1),
}


def said(term):
    ids = torch.randint(3, VOCAB - 4, (2, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids.masked_fill(torch.arange(8) < 4, -100)}

    def loss(model, batch):
        logits, labels = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        hidden = term(logits)[labels == -100]  # where nothing is to be learnt
        return F.cross_entropy(logits[labels != -100], labels[labels != -100]) + 0.1 * hidden.float().mean()

    return check_loss(tiny_model("LlamaForCausalLM"), batch, loss, replay=False)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_penalty_is_stated(penalty):
    report = said(PENALTIES[penalty])
    assert (report.verdict, report.findings) == ("pass", [])
    assert any("nothing else: no target" in note for note in report.notes)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_what_names_tokens_is_no_penalty(teacher):
    report = said(TEACHERS[teacher])
    assert any("names no single token" in note for note in report.notes)
    assert not any("nothing else: no target" in note for note in report.notes)
