"""Losses of causal language models that are wrong: each has its name, and its own checks are not taken for an error."""

import pytest
import torch
import torch.nn.functional as F
from lm_losses import (
    NEEDS_FUSED,
    codes,
    cross_entropy,
    hidden_of,
    logits_of,
    outside_the_model,
    right_padded,
    shifted,
    watch,
)
from lm_tiny import LENGTH, VOCAB, tiny_model

from alignment import InputError
from probes.errors import UsageError


@pytest.fixture(scope="module")
def llama():
    return tiny_model("LlamaForCausalLM")


@pytest.fixture
def batch():
    return right_padded()


def distilled(offset, hard):
    """Towards a teacher that is sure of some tokens, a third of them not the labels', beside a share of hard loss."""

    def loss(model, batch):
        targets = shifted(batch, offset)
        logits = logits_of(model, batch)[:, : LENGTH - offset].flatten(0, 1)
        draw = torch.Generator().manual_seed(0)
        other = torch.randint(0, VOCAB, targets.shape, generator=draw)
        believed = torch.where(torch.rand(targets.shape, generator=draw) < 1 / 3, other, targets.clamp(min=0))
        sure = 15 * torch.rand(targets.shape, generator=draw)
        teacher = torch.randn(logits.shape, generator=draw).scatter_add(-1, believed[..., None], sure[..., None])
        soft = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1)[targets != -100].mean()
        return (1 - hard) * soft + hard * cross_entropy(logits, targets)

    return loss


@pytest.mark.parametrize("hard", [0, 0.1, 0.5], ids=str)
def test_a_distilled_loss_is_at_most_unread_and_its_copy_is_named(llama, hard):
    assert codes(watch(llama, right_padded(), distilled(1, hard))) == ("LA802",)
    assert codes(watch(llama, right_padded(), distilled(0, hard))) == ("LA102",)


def at_offset(offset):
    """A loss that pairs logits[t] with the label ``offset`` positions on."""

    def loss(model, batch):
        labels = torch.full_like(batch["labels"], -100)
        size = LENGTH - abs(offset)
        first, source = max(0, -offset), max(0, offset)
        labels[:, first : first + size] = batch["labels"][:, source : source + size]
        return cross_entropy(logits_of(model, batch), labels)

    return loss


def chunked_copy(model, batch):
    hidden = hidden_of(model, batch).flatten(0, 1)
    return cross_entropy(torch.cat([model.lm_head(part) for part in hidden.split(7)]), batch["labels"])


def fused_copy(model, batch):
    return F.linear_cross_entropy(
        hidden_of(model, batch).flatten(0, 1), model.lm_head.weight, batch["labels"].flatten()
    )


def logits_cut_alone(model, batch):
    return cross_entropy(logits_of(model, batch)[:, :-1].contiguous(), batch["labels"])


def prompt_trained(model, batch):
    targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return cross_entropy(logits_of(model, batch)[:, :-1], targets[:, 1:])


def half_trained(model, batch):
    return cross_entropy(logits_of(model, batch)[:, 12:-1], batch["labels"][:, 13:])


def flat_shift(model, batch):
    """One shift over the flattened batch: the last row of sample 0 is trained on the first of sample 1."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100).flatten()
    return cross_entropy(logits_of(model, batch).flatten(0, 1)[:-1], labels[1:])


def flat_double_shift(model, batch):
    """Shifted, flattened, and shifted again in one piece, as Moshi and GIT did in transformers 4.57."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:].flatten()
    return cross_entropy(logits_of(model, batch)[:, :-1].flatten(0, 1)[:-1], labels[1:])


def mean_of_means(model, batch):
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in (0, 1)]
    return sum(outside_the_model(model, row) for row in rows) / 2


def detached(model, batch):
    return outside_the_model(model, batch).detach()


def swallowed(model, batch):
    logits_of(model, batch)
    return torch.zeros((), requires_grad=True) * 1.0


def own_checks(model, batch):
    """What a loss that compares the lengths itself has in hand."""
    return logits_of(model, batch)[..., :-1, :].contiguous(), batch["labels"]


def says_both_lengths(model, batch):
    logits, labels = own_checks(model, batch)
    if logits.size(1) != labels.size(1):
        raise ValueError(f"alignment failed: {logits.size(1)} vs {labels.size(1)}")


def says_both_row_counts(model, batch):
    logits, labels = own_checks(model, batch)
    logits, labels = logits.view(-1, logits.shape[-1]), labels.view(-1)
    if len(logits) != len(labels):
        raise RuntimeError(f"{len(logits)} rows of logits, {len(labels)} labels")


def asserts(model, batch):
    logits, labels = own_checks(model, batch)
    assert logits.size(1) == labels.size(1)


def raises_for_another_reason(model, batch):
    logits, labels = own_checks(model, batch)
    raise ValueError(f"no scale for {tuple(logits.shape)[:1]} and {tuple(labels.shape)[:1]}")


def asserts_something_else(model, batch):
    logits, labels = own_checks(model, batch)
    shapes = logits.shape, labels.shape
    assert "scale" in batch, ""
    return shapes


@pytest.mark.parametrize("loss", [says_both_lengths, says_both_row_counts, asserts])
def test_a_length_check_of_the_loss_itself_is_told_like_the_error_it_foresees(llama, batch, loss):
    (found,) = watch(llama, batch, loss).findings
    assert (found.code, found.count) == ("LA101", 1)
    assert f"{LENGTH - 1} vs {LENGTH} per sample; logits were cut by `[..., :-1, :]`" in found.message


@pytest.mark.parametrize("loss", [raises_for_another_reason, asserts_something_else])
def test_an_error_after_a_look_at_the_lengths_is_not_taken_for_a_length_check(llama, batch, loss):
    with pytest.raises(UsageError, match="the loss function raised"):
        watch(llama, batch, loss)


FAULTS = [
    pytest.param(at_offset(0), ("LA102",), id="copy"),
    pytest.param(chunked_copy, ("LA102",), id="copy, head in chunks"),
    pytest.param(fused_copy, ("LA102",), id="copy, fused", marks=NEEDS_FUSED),
    pytest.param(at_offset(2), ("LA103",), id="double shift"),
    pytest.param(at_offset(-1), ("LA104",), id="backwards"),
    pytest.param(at_offset(3), ("LA104",), id="three on"),
    pytest.param(logits_cut_alone, ("LA101",), id="logits cut alone"),
    pytest.param(prompt_trained, ("LA202",), id="prompt trained"),
    pytest.param(half_trained, ("LA201",), id="half trained"),
    pytest.param(flat_double_shift, ("LA103",), id="flat double shift"),
    pytest.param(flat_shift, ("LA202", "LA204"), id="flat shift"),
    pytest.param(mean_of_means, ("LA301",), id="mean of means"),
    pytest.param(detached, ("LA605",), id="detached"),
    pytest.param(swallowed, ("LA605",), id="swallowed"),
]


@pytest.mark.parametrize(("loss", "expected"), FAULTS)
def test_faults_have_their_names(llama, batch, loss, expected):
    assert codes(watch(llama, batch, loss)) == expected


def test_a_flat_double_shift_tells_the_rows_that_another_sample_trains(llama, batch):
    (found,) = watch(llama, batch, flat_double_shift).findings
    assert found.message.endswith("the labels are shifted twice; 1 of them on a token of another sample")


def test_a_loss_that_holds_on_to_its_own_labels(llama, batch):
    """No barcode reaches such labels: the sources are then inferred from the batch as it is."""
    labels = batch["labels"]
    copy = watch(llama, batch, lambda m, b: cross_entropy(logits_of(m, b), labels))
    assert codes(copy) == ("LA102",)
    right = watch(llama, batch, lambda m, b: cross_entropy(logits_of(m, b)[:, :-1], labels[:, 1:]))
    assert codes(right) == ()


def test_a_loss_on_other_ids_than_the_batch_is_refused(llama, batch):
    with pytest.raises(InputError, match="the ids that the model was given are not those of the batch"):
        watch(llama, batch, lambda m, b: m(input_ids=b["input_ids"].flip(1), labels=b["labels"]).loss)


@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_labels_withheld_from_the_model(llama, batch, call):
    def loss(model, batch):
        out = getattr(model, call)(**batch)
        assert out.loss is None
        return cross_entropy(out.logits[:, :-1], batch["labels"][:, 1:])

    seen = watch(llama, batch, loss, withhold=True)
    assert codes(seen) == ()
    assert seen.inner_labels == set()


def test_a_model_whose_hidden_rows_are_not_finite(batch):
    model = tiny_model("LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    assert codes(watch(model, batch, outside_the_model)) == ("LA501",)
