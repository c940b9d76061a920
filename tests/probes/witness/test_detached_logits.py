"""Logits that a loss detaches or never uses are not trained, whatever else it does with the hidden states."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, mean

from probes import check_loss


@pytest.fixture(scope="module")
def model():
    return llama().eval()


@pytest.fixture
def batch():
    return batches(1)[0]


def hidden_of(model, batch):
    return model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]


def detached(model, batch):
    hidden = hidden_of(model, batch)
    return mean(model.lm_head(hidden).detach(), batch["labels"]) + 0.01 * hidden.pow(2).mean()


def detached_outputs(model, batch):
    given = {key: value for key, value in batch.items() if key != "labels"}
    outputs = model(**given, output_hidden_states=True)
    return mean(outputs.logits.detach(), batch["labels"]) + 0.01 * outputs.hidden_states[-1].pow(2).mean()


def never_made(model, batch):
    return hidden_of(model, batch).pow(2).mean()


@pytest.mark.parametrize("loss", [detached, detached_outputs, never_made])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_loss_on_hidden_states_alone_trains_no_logit(model, batch, loss, frozen):
    model.lm_head.requires_grad_(not frozen)
    report = check_loss(model, batch, loss)
    assert [(one.code, one.stream) for one in report.findings if one.is_error] == [("LA605", "all")]
    assert "hidden states" in report.findings[0].message
    assert model.lm_head.weight.requires_grad is not frozen
    model.lm_head.requires_grad_(True)


def fused(model, batch):
    return mean(F.linear(hidden_of(model, batch), model.lm_head.weight), batch["labels"])


def fused_teacher(model, batch):
    logits = F.linear(hidden_of(model, batch), model.lm_head.weight)
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")


@pytest.mark.parametrize(("loss", "verdict"), [(fused, "pass"), (fused_teacher, "incomplete")])
def test_logits_that_a_loss_makes_by_itself_are_trained(model, batch, loss, verdict):
    assert check_loss(model, batch, loss).verdict == verdict
