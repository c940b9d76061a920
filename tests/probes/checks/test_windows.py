"""Windows of a text whose next tokens lie under a key of one's own: nobody crosses a border, and nothing is hidden."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import VOCAB, tiny_model

from probes import check_loss

LINE = torch.randint(3, VOCAB, (25,), generator=torch.Generator().manual_seed(0))
CONTIGUOUS = {"input_ids": LINE[:-1].reshape(3, 8), "y": LINE[1:].reshape(3, 8)}


def of(batch, **options):
    def loss(model, batch):
        return F.cross_entropy(model(input_ids=batch["input_ids"]).logits.flatten(0, 1), batch["y"].flatten())

    return check_loss(tiny_model("LlamaForCausalLM"), batch, loss, **options).findings


def masked(*cells):
    y = CONTIGUOUS["y"].clone()
    for cell in cells:
        y[cell] = -100
    return {**CONTIGUOUS, "y": y}


@pytest.mark.parametrize("cells", [(), ((2, 7),), ((2, 7), (0, 3), (1, 2))], ids=["all", "but the last", "scattered"])
def test_windows_that_follow_each_other_cross_no_border(cells):
    assert [one.code for one in of(masked(*cells), labels="pre_shifted") if one.is_error] == []


def test_a_shift_of_the_whole_batch_crosses_them():
    aligned = {"input_ids": CONTIGUOUS["input_ids"], "y": CONTIGUOUS["input_ids"].clone()}

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits.flatten(0, 1)
        return F.cross_entropy(logits[:-1], batch["y"].flatten()[1:])

    found = check_loss(tiny_model("LlamaForCausalLM"), aligned, loss).findings
    assert [one.code for one in found if one.is_error] == ["LA204"]


def test_a_copy_is_named_also_where_a_last_token_repeats():
    batch = {"input_ids": torch.tensor([[7, 5, 9, 6], [6, 8, 6, 4]]), "y": torch.tensor([[5, 9, 6, 6], [8, 6, 4, 5]])}

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), batch["y"][:, :-1].flatten())

    found = check_loss(tiny_model("LlamaForCausalLM"), batch, loss, labels="pre_shifted").findings
    assert [one.code for one in found if one.is_error] == ["LA102"]


def test_windows_of_one_token_repeated_say_nothing():
    batch = {"input_ids": torch.full((2, 4), 5), "y": torch.tensor([[-100, -100, 5, 5]] * 2)}
    assert [one.code for one in of(batch, labels="pre_shifted") if one.is_error] == []


def test_a_roll_is_one_offset():
    aligned = {"input_ids": CONTIGUOUS["input_ids"], "y": CONTIGUOUS["input_ids"].clone()}

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["y"].roll(-2, 1).flatten())

    found = check_loss(tiny_model("LlamaForCausalLM"), aligned, loss).findings
    assert [one.code for one in found if one.is_error] == ["LA103"]


@pytest.mark.parametrize("shared", [True, False])
def test_columns_that_are_off_by_one_train_the_right_rows_on_wrong_tokens(shared):
    ids = torch.randint(3, 6 if shared else VOCAB - 2, (2, 8), generator=torch.Generator().manual_seed(2))
    batch = {"input_ids": ids, "labels": ids.clone()}

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1, 1:]
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    found = check_loss(tiny_model("LlamaForCausalLM"), batch, loss).findings
    assert [one.code for one in found if one.is_error] == ["LA201"]
    assert "trained on the id +1 of their target" in found[0].message


@pytest.mark.parametrize("samples", [2, 3])
def test_masked_labels_of_a_decoder_are_no_padding_that_is_trained(samples):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, 60, (samples, 8), generator=generator)
    labels[:, 5:7] = -100  # what the decoder reads ends in padding, and its last label is a token
    labels[0, 2] = -100
    batch = {"input_ids": torch.randint(3, 60, (samples, 5), generator=generator), "labels": labels}
    report = check_loss(tiny_model("T5ForConditionalGeneration"), batch, lambda m, b: m(**b).loss)
    assert [one.code for one in report.findings if one.is_error] == []
