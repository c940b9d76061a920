"""Rows that a loss leaves out by what they lose: a watched step cannot tell them from forgotten ones."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, loop, watched

from alignment.sketch import sketch
from probes.live.chosen import losses_at_input, losses_of


def kept(share, offset=1, *, given=True, halved=False, easiest=False):
    """The mean of the hardest (or easiest) ``share`` of all labelled tokens."""

    def loss(model, batch):
        labels = batch["labels"].clone()
        inputs = batch if given else {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs).logits
        labels[:, 1::2] = -100 if halved else labels[:, 1::2]
        rows = logits[:, : logits.shape[1] - offset].transpose(1, 2)
        every = F.cross_entropy(rows, labels[:, offset:], reduction="none")[labels[:, offset:] != -100]
        return every.topk(int(share * len(every)), largest=not easiest).values.mean()

    return loss


def told(loss):
    report, _ = watched(lambda: loop(llama(), loss, batches(2)))
    return report.verdict, [one.code for one in report.findings if one.severity != "warning"]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("how", [{"share": 0.1}, {"share": 0.6}, {"share": 0.6, "easiest": True}], ids=str)
def test_rows_that_lose_least_of_all_are_chosen_and_none_is_missing(how, given):
    assert told(kept(**how, given=given)) == ("incomplete", ["LA804"])


def test_so_are_rows_whose_logits_the_loss_makes_itself():
    def loss(model, batch):
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        rows = (hidden[:, :-1] @ model.lm_head.weight.T).transpose(1, 2)
        labels = batch["labels"][:, 1:]
        every = F.cross_entropy(rows, labels, reduction="none")[labels != -100]
        return every.topk(len(every) // 2).values.mean()

    assert told(loss) == ("incomplete", ["LA804"])


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"share": 0.6, "offset": 0}, "LA102"),
        ({"share": 1, "halved": True}, "LA201"),
        ({"share": 0.6, "halved": True}, "LA201"),
    ],
    ids=str,
)
def test_rows_that_are_missing_whatever_they_lose_are_named(how, code):
    assert told(kept(**how)) == ("fail", [code])


def test_what_rows_lose_is_read_off_their_sketch():
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    ids, rows = torch.tensor([5, 299, 7, 0, 8, 9, 1]), torch.tensor([0, 1, 2, 3, 5, 6])
    found = losses_of(logits, sketch(logits), ids, rows)
    torch.testing.assert_close(found[rows], F.cross_entropy(logits, ids.roll(-1)[rows], reduction="none"))
    assert bool(found[4].isnan())


@pytest.mark.parametrize("bias", [False, True])
def test_what_rows_lose_is_made_of_what_their_head_reads(bias):
    head = torch.nn.Linear(8, 300, bias=bias)
    hidden, ids = torch.randn(7, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 299, 7, 0, 8, 9, 1])
    found = losses_at_input(hidden, head, ids)
    torch.testing.assert_close(found, F.cross_entropy(head(hidden), ids.roll(-1), reduction="none"))
