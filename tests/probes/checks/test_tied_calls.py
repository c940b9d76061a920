"""One head that a forward calls twice over the same rows: each call is a stream of its own."""

import pytest
import torch
from further_models import IDS, LABELS, Mtp, ce, later, mtp_loss

from probes import check_loss

BATCH = {"input_ids": IDS, "labels": LABELS}
AGAIN = "text call 2"


class Tied(Mtp):
    """DeepSeek's design as it is: the main head gives the token after the next one too."""

    def __init__(self):
        super().__init__()
        self.mtp_head = self.main.lm_head


class Deep(Mtp):
    """Deep supervision: the head reads the embeddings and the last hidden states, all causal."""

    def forward(self, input_ids):
        body = self.main.model
        hidden = body(input_ids=input_ids).last_hidden_state
        return self.main.lm_head(hidden), self.main.lm_head(body.embed_tokens(input_ids))


def main_at(shift, own=2):
    def loss(model, batch):
        main, extra = model(batch["input_ids"])
        return ce(main, later(batch["labels"], shift)) + 0.3 * ce(extra, later(batch["labels"], own))

    return loss


def told(report):
    return [(one.code, one.stream) for one in report.findings]


@pytest.mark.parametrize(
    ("loss", "due"),
    [
        (main_at(1), []),
        (main_at(0), [("LA102", "text")]),
        (main_at(2), [("LA103", "text")]),
        (mtp_loss("shifted once more"), [("LA104", AGAIN)]),
        (mtp_loss("prompt trained"), [("LA202", AGAIN)]),
        (mtp_loss("mask one ahead"), [("LA201", AGAIN), ("LA202", AGAIN)]),
        (mtp_loss("one short"), [("LA401", "text")]),
    ],
    ids=["right", "main copies", "main shifted twice", "shifted once more", "prompt", "mask one ahead", "one short"],
)
def test_a_tied_head_for_the_token_after_the_next(loss, due):
    report = check_loss(Tied(), BATCH, loss)
    assert told(report) == due
    assert report.verdict == ("fail" if due else "pass")
    assert list(report.streams) == ["text", AGAIN]


def test_the_distance_of_the_second_call_is_told():
    report = check_loss(Tied(), BATCH, main_at(1))
    assert (report.streams["text"]["offsets"], report.streams[AGAIN]["offsets"]) == ({"1": 32}, {"2": 32})
    assert report.streams[AGAIN]["ahead"] == 2
    assert f"{AGAIN} predicts 2 ahead; its loss weighs 0.3, that of text 1" in report.notes


@pytest.mark.parametrize(("shift", "due"), [(1, []), (0, [("LA102", "text")])])
def test_calls_are_told_apart_though_no_row_has_a_target_in_both(shift, due):
    """Every fourth token is labelled: the rows before these, and those two before them, are different ones."""
    labels = LABELS.where((torch.arange(LABELS.shape[1]) % 4 == 3) & (LABELS >= 0), -100)
    report = check_loss(Tied(), {"input_ids": IDS, "labels": labels}, main_at(shift))
    assert told(report) == due
    assert list(report.streams) == ["text", AGAIN]


def test_two_calls_for_the_next_token_are_right():
    report = check_loss(Deep(), BATCH, main_at(1, own=1))
    assert (told(report), report.verdict) == ([], "pass")
    assert "ahead" not in report.streams[AGAIN]


@pytest.mark.parametrize(
    ("model", "trained", "due"),
    [
        (Tied, lambda main, _: main, []),
        (Deep, lambda _, extra: extra, []),
        (Deep, lambda main, _: main[:, :-1].flatten(0, 1), []),
    ],
    ids=["the first", "the second", "cut after it"],
)
def test_a_call_that_the_loss_does_not_use_is_none(model, trained, due):
    """Logits for a metric, or made once more for the loss: what they have read is not asked either."""

    def loss(model, batch):
        logits = trained(*model(batch["input_ids"]))
        target = later(batch["labels"], 1)
        return ce(logits, target[:, :-1] if logits.dim() == 2 else target)

    report = check_loss(model(), BATCH, loss)
    assert (told(report), report.verdict) == (due, "pass")
    assert list(report.streams) == ["text"]


def test_a_head_that_is_called_in_chunks_is_called_once():
    class Chunked(Mtp):
        def forward(self, input_ids):
            hidden = self.main.model(input_ids=input_ids).last_hidden_state
            return [self.main.lm_head(part) for part in hidden.split(12, dim=1)]

    def loss(model, batch):
        target = later(batch["labels"], 1)
        return sum(ce(part, own) for part, own in zip(model(batch["input_ids"]), target.split(12, dim=1), strict=True))

    report = check_loss(Chunked(), BATCH, loss)
    assert list(report.streams) == ["text"]
    assert report.streams["text"]["offsets"] == {"1": 32}
