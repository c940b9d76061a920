"""Two witnesses that share no code say the same of every planted leak, and of right code."""

import pytest
import torch
from fault_matrix import model_for, packed_batch, text_batch

from probes import check_loss


def own(model, batch):
    return model(**batch).loss


@pytest.mark.parametrize("make", [text_batch, packed_batch], ids=["padded", "packed"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_the_reader_calls_next_token_has_not_been_read(make, size):
    """Where every target is taken from the next row, no row that is trained moves with it."""
    report = check_loss(model_for("llama"), make(size), own, replay="full")
    told = report.streams["text"]
    assert told["offsets"].keys() == {"1"}
    assert report.check("causality").status == "pass", report.in_short()
    assert not any(cut["leaking"] for cut in report.causality["cuts"])


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_gradient_moves_with_the_token_that_the_reader_names(offset):
    """The source by replay: at unchanged logits, a row's gradient moves where its target is renamed, and only there."""
    from probes.models import adapter_for
    from probes.replay.run import Scene, run_loss

    model, batch = model_for("llama"), text_batch(1)

    def loss(model, batch):
        logits, labels = model(batch["input_ids"]).logits, batch["labels"]
        ahead = torch.nn.functional.pad(labels, (0, 2), value=-100)[:, offset : offset + labels.shape[1]]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ahead.flatten())

    report = check_loss(model, batch, loss, replay=False)
    assert report.streams["text"]["offsets"].keys() == {str(offset)}
    adapter = adapter_for(model)
    scene = Scene(model, adapter, adapter.view(model, batch), loss)
    base = run_loss(scene, batch, gradients=True)
    at = 20
    ids, labels = batch["input_ids"].clone(), batch["labels"].clone()
    ids[0, at] = labels[0, at] = int(ids[0, at]) % 400 + 5
    other = run_loss(scene, {**batch, "input_ids": ids, "labels": labels}, base, gradients=True)
    moved = (other.calls[0].gradient - base.calls[0].gradient).abs().amax(-1) > 1e-6
    assert torch.nonzero(moved).flatten().tolist() == [at - offset]
