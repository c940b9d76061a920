"""A mask is an expectation: what it belongs to is read off its spans, and one that is off by one is named."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

HEAD, END = 100, 2
KEYS = ("loss_mask", "response_mask", "completion_mask", "assistant_masks")


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, pad_token_id=0, bos_token_id=1, eos_token_id=END, **sizes))


def ids_and_mask(kind, *, ended=True):
    ids = torch.randint(4, 90, (2, 24), generator=torch.Generator().manual_seed(1))
    ids[:, 9] = HEAD if ended else ids[:, 9]
    ids[:, 19] = END if ended else ids[:, 19]
    mask = torch.zeros_like(ids)
    mask[:, 10:20] = 1
    return ids, mask.roll(-1, 1) if kind == "rows" else mask


def loss(key, *, of_tokens):
    def masked(model, batch):
        logs = model(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        taken = logs.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        keep = batch[key][:, 1:] if of_tokens else batch[key][:, :-1]
        return -(taken * keep).sum() / keep.sum()

    return masked


def told(kind, *, of_tokens, key="loss_mask", ended=True):
    ids, mask = ids_and_mask(kind, ended=ended)
    return check_loss(llama(), {"input_ids": ids, key: mask}, loss(key, of_tokens=of_tokens), replay=False)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["tokens", "rows"])
def test_a_mask_that_is_used_as_it_is_meant_is_silent(kind, key):
    report = told(kind, of_tokens=kind == "tokens", key=key)
    assert [one.code for one in report.findings] == []
    assert any(f"{key} says which {kind}" in note for note in report.notes)
    assert report.streams["text"]["expected"] == 20


@pytest.mark.parametrize(("kind", "codes"), [("tokens", {"LA201", "LA202"}), ("rows", {"LA203", "LA202"})])
def test_a_mask_that_is_one_off_is_named(kind, codes):
    assert {one.code for one in told(kind, of_tokens=kind == "rows").findings} == codes


def test_a_mask_of_which_nothing_tells_what_it_belongs_to_is_a_blind_spot():
    (found,) = told("tokens", of_tokens=True, ended=False).findings
    assert (found.code, found.severity) == ("LA804", "blind")


def test_a_mask_beside_labels_says_which_of_them_are_trained():
    ids, mask = ids_and_mask("rows")
    ahead = {"input_ids": ids[:, :-1], "labels": ids[:, 1:].clone(), "loss_mask": mask[:, :-1]}

    def megatron(model, batch):
        logs = model(input_ids=batch["input_ids"]).logits.log_softmax(-1)
        taken = logs.gather(-1, batch["labels"][..., None])[..., 0]
        return -(taken * batch["loss_mask"]).sum() / batch["loss_mask"].sum()

    def unmasked(model, batch):
        logs = model(input_ids=batch["input_ids"]).logits.log_softmax(-1)
        return -logs.gather(-1, batch["labels"][..., None]).mean()

    assert [one.code for one in check_loss(llama(), ahead, megatron, replay=False).findings] == []
    assert [one.code for one in check_loss(llama(), ahead, unmasked, replay=False).findings] == ["LA202"]


def test_rows_that_a_clipped_ratio_leaves_out_at_noise_are_trained():
    ids, mask = ids_and_mask("tokens")
    model = llama()
    with torch.no_grad():
        old = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    def ratio(model, batch):
        logs = model(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        change = (logs.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] - old).exp()
        keep = batch["loss_mask"][:, 1:]
        return -(torch.min(change, change.clamp(0.99, 1.01)) * keep).sum() / keep.sum()

    report = check_loss(model, {"input_ids": ids, "loss_mask": mask}, ratio, replay=False)
    assert [one.code for one in report.findings] == []
    assert any("at the model's own logits" in note for note in report.notes)
