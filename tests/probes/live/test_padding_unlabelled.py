"""Padding that is trained although nobody hands over labels, a mask, or who is to be trained: named at every door."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama, loop, watched

from probes import check_loss

END, PAD = 1, 0
LENGTHS = (20, 14, 9)


def model(*, same):
    out = llama()
    out.config.eos_token_id = out.generation_config.eos_token_id = END
    out.config.pad_token_id = END if same else PAD
    return out


def padded(*, left, same, mask):
    """Texts that end in the end token, padded, and the labels that a loss should make of them."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(250, generator=draw)[:20] + 3 for _ in LENGTHS])
    real = torch.arange(20) >= 20 - torch.tensor(LENGTHS)[:, None]
    real = real if left else real.flip(1)
    for row, length in enumerate(LENGTHS):
        ids[row, -1 if left else length - 1] = END
    ids = ids.masked_fill(~real, END if same else PAD)
    batch = {"input_ids": ids, "attention_mask": real.long()} if mask else {"input_ids": ids}
    first = real & (real.cumsum(1) == 1)  # behind padding nothing that it could follow has been read
    return batch, ids.masked_fill(~real | (first if left else False), -100)


def by_check_loss(made, loss, batch):
    return check_loss(made, dict(batch), loss)


def by_run(made, loss, batch):
    return watched(lambda: loop(made, loss, [batch]), steps=1)[0]


DOORS = pytest.mark.parametrize("door", [by_check_loss, by_run], ids=["check_loss", "run"])


def mean(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@DOORS
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("same", [False, True], ids=["own", "end"])
@pytest.mark.parametrize("mask", [False, True], ids=["bare", "masked"])
def test_all_of_it_is_named_and_a_loss_that_leaves_it_out_is_silent(door, left, same, mask):
    batch, right = padded(left=left, same=same, mask=mask)
    good = door(model(same=same), lambda m, b: mean(m(**b).logits, right), batch)
    assert (good.verdict, good.findings) == ("pass", [])
    bad = door(model(same=same), lambda m, b: mean(m(**b).logits, b["input_ids"]), batch)
    assert ("LA202", 15 if left or same else 17) in [(one.code, one.count) for one in bad.findings]


@DOORS
def test_a_mask_that_lies_over_rows_in_place_of_targets_trains_the_first_of_it(door):
    batch, _ = padded(left=False, same=False, mask=True)

    def loss(m, b):
        each = F.cross_entropy(m(**b).logits[:, :-1].mT, b["input_ids"][:, 1:], reduction="none")
        return (each * b["attention_mask"][:, :-1]).sum() / b["attention_mask"].sum()

    assert [(one.code, one.count) for one in door(model(same=False), loss, batch).findings] == [("LA202", 2)]
