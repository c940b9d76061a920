"""The Lightning callback: before any weight has moved, without a trace, and never an end to what cannot be judged."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning_rows import Manual, Module, fit, llama
from rows import digest
from torch import nn

from probes import LightningAlignmentCallback, UsageError
from probes.report import LossAlignmentError

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


def fresh():
    torch.manual_seed(0)
    return digest(Module(llama(), 1))


@pytest.mark.parametrize("kind", [Module, Manual])
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}])
def test_a_faulty_fit_fails_before_any_weight_has_moved(kind, settings):
    callback, seen = LightningAlignmentCallback(), []

    class Keeping(kind):
        def on_exception(self, exception):
            seen.append(digest(self))

    with pytest.raises(LossAlignmentError, match="LA103"):
        fit(Keeping, llama, settings, True, [callback])
    assert callback.report.verdict == "fail"
    assert seen in ([], [fresh()])


def test_a_warning_lets_it_train():
    callback = LightningAlignmentCallback("warn")
    model = fit(Module, llama, {}, True, [callback])
    assert digest(model) == digest(fit(Module, llama, {}, True, []))


def test_a_regression_is_trained_and_said_not_to_be_judged():
    class Regression(LightningModule):
        def __init__(self, model, shift):
            super().__init__()
            self.layer = nn.Linear(20, 1)

        def training_step(self, batch, number):
            return self.layer(batch["input_ids"].float()).square().mean() * 1e-6

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = LightningAlignmentCallback()
    fit(Regression, llama, {}, False, [callback])
    assert (callback.report.verdict, [one.code for one in callback.report.findings]) == ("incomplete", ["LA804"])


class AddedUp(Module):
    """The sum over all targets, which Lightning divides by the number of micro-batches."""

    def loss(self, batch):
        logits = self.model(batch["input_ids"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize(
    ("kind", "settings", "declared", "status"),
    [
        (Module, {}, "token-mean", "pass"),
        (Manual, {}, "token-mean", "pass"),
        (AddedUp, {}, "sum", "pass"),
        (AddedUp, {"accumulate_grad_batches": 2}, "sum", "fail"),
        (AddedUp, {}, "token-mean", "fail"),
        (Module, {}, "sum", "fail"),
    ],
)
def test_the_weights_of_a_step_are_held_to_a_declared_reduction(kind, settings, declared, status):
    callback = LightningAlignmentCallback("report", reduction=declared)
    fit(kind, llama, settings, False, [callback])
    assert callback.report.check("reduction").status == status
    assert {one.code for one in callback.report.findings} == ({"LA302"} if status == "fail" else set())


def test_bad_arguments_are_named():
    with pytest.raises(UsageError, match="unknown on_findings 'stop'"):
        LightningAlignmentCallback("stop")
    with pytest.raises(UsageError, match="unknown reduction 'mean'"):
        LightningAlignmentCallback(reduction="mean")
    with pytest.raises(UsageError, match="unknown train_on"):
        LightningAlignmentCallback(train_on="everything")
