"""Logits that a check hands to a loss and keeps no longer than the loss does: what it reads stays the same."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import tiny_model

from probes.models import adapter_for
from probes.witness import stand_in
from probes.witness.witness import witness

CHUNK = 5


def shifted(model, batch):
    hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state
    return hidden[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()


def chunk_by_chunk(model, batch, written=lambda logits: logits):
    hidden, labels = shifted(model, batch)
    parts = zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)
    losses = [F.cross_entropy(written(model.lm_head(h)), y, reduction="none") for h, y in parts]
    return (torch.cat(losses) * weights(labels)).sum() / (labels >= 0).sum()


def weights(labels):
    """Told apart in three digits."""
    return 1 + 1e-3 * (torch.arange(len(labels)) % 3)


def doubled(model, batch):
    return chunk_by_chunk(model, batch, lambda logits: logits.mul_(2))


def masked(model, batch):
    """Half of the ids are written off, of which no label is one."""
    labels = batch["labels"]

    def without(logits):
        gone = torch.ones(logits.shape[-1], dtype=torch.bool)
        gone[labels[labels >= 0]] = False
        gone[: len(gone) // 2] = False
        logits[:, gone] = -torch.inf
        return logits

    return chunk_by_chunk(model, batch, without)


@pytest.mark.parametrize("held", [0, stand_in.HELD_BYTES], ids=["let-go", "held"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("loss", "scale"), [(chunk_by_chunk, 1), (doubled, 2), (masked, 1)])
def test_weights_are_right_to_three_digits(loss, scale, dtype, held, monkeypatch):
    monkeypatch.setattr(stand_in, "HELD_BYTES", held)
    model, batch = tiny_model("LlamaForCausalLM").to(dtype), text_batch()
    seen = witness(model, adapter_for(model), batch, loss)
    assert not seen.findings
    labels = batch["labels"]
    wanted = torch.zeros(labels.shape, dtype=torch.float64)
    rows = labels[:, 1:].flatten()
    wanted[:, :-1] = (scale * weights(rows) * (rows >= 0) / (rows >= 0).sum()).view(len(labels), -1)
    torch.testing.assert_close(seen.actual[0].weight, wanted.flatten(), rtol=2e-4, atol=0)


def test_calls_of_which_only_some_are_trained_keep_their_places():
    """The first half of the chunks is computed and left out of the loss."""

    def half(model, batch):
        hidden, labels = shifted(model, batch)
        parts = list(zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True))
        losses = [F.cross_entropy(model.lm_head(h), y, reduction="sum") for h, y in parts]
        return torch.stack(losses[len(losses) // 2 :]).sum()

    model, batch = tiny_model("LlamaForCausalLM"), text_batch()
    seen = witness(model, adapter_for(model), batch, half)
    labels, count = shifted(model, batch)[1], len(shifted(model, batch)[0])
    expected = torch.arange(count) >= CHUNK * (-(-count // CHUNK) // 2)
    trained = seen.actual[0].trained.view(len(batch["labels"]), -1)[:, :-1].flatten()
    assert torch.equal(trained, expected & (labels >= 0))
