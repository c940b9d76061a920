"""Labels kept back, of samples alike token by token, in another order than the model reads these in."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama, loop, watched

__ = -100


def batch():
    """Three samples of the same tokens, of which different parts are labelled."""
    ids = torch.tensor([[5, 6, 7, 8, 9]] * 3)
    labels = torch.tensor([[__, __, __, __, 9], [__, 6, 7, __, __], [__, __, __, 8, 9]])
    return {"input_ids": ids, "labels": labels}


def in_order(*order, without=0):
    """A loss that reads the samples in this order, and leaves out so many of the first targets of the last."""

    def loss(model, batch):
        ids, labels = batch["input_ids"][list(order)], batch["labels"].clone()
        labels[2, 3 : 3 + without] = __
        logits = model(input_ids=ids).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[list(order)][:, 1:].flatten())

    return loss


def told(loss):
    report, _ = watched(lambda: loop(llama(), loss, [batch(), batch()]))
    return {found.code for found in report.findings if found.is_error}, report.streams["text"]["supervised"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_samples_may_be_read_in_any_order(order):
    assert told(in_order(*order)) == (set(), 10)


def test_a_target_that_no_sample_trains_is_missing():
    assert "LA201" in told(in_order(2, 1, 0, without=1))[0]
