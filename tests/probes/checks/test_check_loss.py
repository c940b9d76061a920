"""``check_loss`` in Python: what only a caller of it can plant."""

import pytest
import torch
import torch.nn.functional as F
from narrow import narrow_batch, narrow_model
from torch import nn

from probes import Report, UsageError, check_loss
from probes.checks.preflight import Plan, preflight
from probes.models.higgs import HiggsAdapter
from probes.report import LossAlignmentError

pytestmark = [pytest.mark.higgs, pytest.mark.usefixtures("no_lines")]


class Wrapper(nn.Module):
    """As trainers wrap the model; ``dropped`` keywords never reach it."""

    def __init__(self, model, dropped=()):
        super().__init__()
        self.model = model
        self.dropped = dropped

    def forward(self, **kwargs):
        return self.model(**{key: value for key, value in kwargs.items() if key not in self.dropped})


@pytest.fixture(scope="module")
def model():
    return narrow_model()


@pytest.fixture
def batch():
    return narrow_batch(2, length=96)


def correct(model, batch):
    out = model(**batch)
    labels = out.expanded_labels
    if labels is None:
        return audio(out, batch)
    return F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()) + audio(out, batch)


def audio(out, batch):
    labels = batch["label_audio_ids"]
    return sum(F.cross_entropy(out.audio_logits[:-1, k], labels[k, 1:]) for k in range(len(labels))) / len(labels)


def codes(report):
    return [(f.code, f.stream) for f in report.findings if f.is_error]


def test_a_correct_loss_passes_and_raises_nothing(model, batch):
    report = check_loss(model, batch, correct)
    assert isinstance(report, Report)
    assert (report.verdict, report.findings, report.exit_code) == ("pass", [], 0)
    report.raise_for_findings()
    assert report.check("labels-received").status == "pass"


def test_a_wrapper_that_drops_label_ids_is_named(model, batch):
    assert codes(check_loss(Wrapper(model), batch, correct)) == []
    report = check_loss(Wrapper(model, dropped=("label_ids",)), batch, correct)
    assert ("LA601", "text") in codes(report)
    assert report.check("labels-received").status == "fail"
    with pytest.raises(LossAlignmentError, match="LA601"):
        report.raise_for_findings()


def test_a_label_outside_the_vocabulary_is_named(model, batch):
    batch["label_ids"][0, -5] = 200_000
    report = check_loss(model, batch, lambda m, b: audio(m(**b), b))
    assert "LA502" in [code for code, _ in codes(report)]


def test_a_batch_without_any_label_is_nothing_supervised(model, batch):
    for key in ("label_ids", "label_audio_ids"):
        batch[key] = torch.full_like(batch[key], -100)
    zero = lambda m, b: m(**b).logits.sum() * 0  # noqa: E731
    report = check_loss(model, batch, zero)
    assert codes(report) == [("LA206", "all")]
    assert report.check("pairing-text").status == "fail"
    report = check_loss(
        model, batch, lambda m, b: F.cross_entropy(m(**b).logits.flatten(0, 1), b["label_ids"].new_full((192,), -100))
    )
    assert codes(report) == [("LA501", "all")]
    assert "no labelled token" in report.findings[0].message


@pytest.mark.parametrize(
    "reduction", ["token-mean", "sequence-mean", "sum"], ids=["token-mean", "sequence-mean", "sum"]
)
def test_declared_reductions(model, reduction):
    batch = narrow_batch(2, length=96)

    def text(model, batch, how):
        out = model(**batch)
        targets = F.pad(out.expanded_labels[:, 1:], (0, 1), value=-100)
        each = F.cross_entropy(out.logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return {
            "token-mean": each.sum() / (targets != -100).sum(),
            "sequence-mean": (each.sum(1) / (targets != -100).sum(1)).mean(),
            "sum": each.sum(),
        }[how] + audio(out, batch) * (0 if how != "token-mean" else 1)

    others = {"token-mean": "sum", "sequence-mean": "sum", "sum": "token-mean"}
    right = check_loss(model, batch, lambda m, b: text(m, b, reduction), reduction=reduction, replay=False)
    assert "LA302" not in [code for code, _ in codes(right)]
    wrong = check_loss(model, batch, lambda m, b: text(m, b, others[reduction]), reduction=reduction, replay=False)
    assert ("LA302", "text") in codes(wrong)


def test_accumulation_of_means_is_a_mean_of_means_unless_the_step_is_counted(model):
    batch = narrow_batch(2, length=96)
    assert ("LA302", "text") in codes(check_loss(model, batch, correct, grad_accum=2, replay=False))

    def counted(model, batch, num_items_in_batch):
        out = model(**batch)
        labels = F.pad(out.expanded_labels[:, 1:], (0, 1), value=-100)
        return F.cross_entropy(out.logits.flatten(0, 1), labels.flatten(), reduction="sum") / num_items_in_batch

    assert "LA302" not in [code for code, _ in codes(check_loss(model, batch, counted, grad_accum=2, replay=False))]


def test_named_heads_of_any_module():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.top = nn.Embedding(50, 8), nn.Linear(8, 50)

        def forward(self, input_ids):
            return self.top(self.embed(input_ids))

    ids = torch.arange(40).view(2, 20) + 3
    batch = {"input_ids": ids, "labels": ids}
    shifted = lambda m, b: F.cross_entropy(m(b["input_ids"])[:, :-1].flatten(0, 1), b["labels"][:, 1:].flatten())  # noqa: E731
    copied = lambda m, b: F.cross_entropy(m(b["input_ids"]).flatten(0, 1), b["labels"].flatten())  # noqa: E731
    assert codes(check_loss(Own(), batch, shifted, heads=["top"])) == []
    assert codes(check_loss(Own(), batch, copied, heads=["top"])) == [("LA102", "text")]
    with pytest.raises(UsageError, match="top"):
        check_loss(Own(), batch, shifted, heads=["tpo"])


def test_nothing_is_left_behind_when_the_loss_raises(model, batch):
    def raises(model, batch):
        model(**batch)
        raise ValueError("on purpose")

    model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="ValueError: on purpose"):
        check_loss(model, batch, raises)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(param.grad is None for param in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_row_trained_on_two_tokens_is_not_read_and_nothing_passes_over_it(model, batch):
    def both(model, batch):
        copy = F.cross_entropy(*flat(model(**batch).logits, batch, model, shift=False))
        return copy + correct(model, batch)

    report = check_loss(model, batch, both)
    assert report.verdict != "pass" or report.check("coverage").status == "skip"
    assert report.check("pairing-text").status != "pass"


def flat(logits, batch, model, *, shift):
    labels = model(**batch).expanded_labels
    labels = F.pad(labels[:, 1:], (0, 1), value=-100) if shift else labels
    return logits.flatten(0, 1), labels.flatten()


def test_a_loss_with_its_sign_turned_round_is_named(model, batch):
    report = check_loss(model, batch, lambda m, b: -correct(m, b))
    assert [(f.code, f.severity, f.stream) for f in report.findings] == [
        ("LA304", "warning", "text"),
        ("LA304", "warning", "audio"),
    ]
    assert report.check("pairing-text").status == report.check("pairing-audio").status == "skip"
    assert "pushed away" in report.check("pairing-text").detail


def test_a_loss_that_ends_the_program_is_bad_usage(model, batch):
    def ends(model, batch):
        raise SystemExit(0)

    with pytest.raises(UsageError, match="ended the program"):
        check_loss(model, batch, ends)


def test_a_loss_that_edits_its_batch_afterwards_is_read_all_the_same(model, batch):
    def edits(model, batch):
        value = correct(model, batch)
        batch["input_ids"].zero_()
        return value

    assert check_loss(model, batch, edits).verdict == "pass"


def test_a_loss_that_breaks_in_training_fails_that_check_alone(model, batch):
    calls = []

    def second(model, batch):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("second call")
        return correct(model, batch)

    report = preflight(Plan(model, HiggsAdapter(), batch, second))
    assert report.check("training-step").status == "fail"
    assert "second call" in report.check("training-step").detail
    assert report.check("pairing-text").status == "pass"
