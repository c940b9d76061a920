"""Training scripts of speech as they are written: audio in place of ids, codebooks with a delay; nothing is named."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama, loop, watched
from torch import nn

AUDIO, BOOKS, CODES, WIDTH = 250, 3, 64, 16
SHIFTS = {"right": 1, "prompt": 1, "copy": 0, "double": 2}


def said(report):
    return {one.code for one in report.findings}


class SpeechModel(nn.Module):
    """Frames of audio take the place of a placeholder; the loss is the wrapper's own, its labels have no name."""

    def __init__(self, form):
        super().__init__()
        self.shift, self.llm, self.projector = SHIFTS[form], llama(), nn.Linear(8, 32)

    def forward(self, input_ids, audio, labels):
        text = self.llm.get_input_embeddings()(input_ids)
        where = (input_ids == AUDIO)[..., None].expand_as(text)
        logits = self.llm(inputs_embeds=text.masked_scatter(where, self.projector(audio))).logits
        end = logits.shape[1] - self.shift
        return F.cross_entropy(logits[:, :end].flatten(0, 1), labels[:, self.shift :].flatten())


@pytest.mark.parametrize(
    ("form", "codes"), [("right", set()), ("prompt", set()), ("copy", {"LA102"}), ("double", {"LA103"})]
)
def test_labels_that_a_wrapper_is_given_by_their_place_are_seen(form, codes):
    draw = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(2):
        ids = torch.randint(3, AUDIO, (3, 16), generator=draw)
        ids[:, 2:6] = AUDIO
        labels = ids.masked_fill(ids == AUDIO, -100)  # of a prompt before the audio: it does not end where that begins
        labels[:, : 0 if form == "prompt" else 9] = -100
        batches.append({"ids": ids, "audio": torch.randn(3, 4, 8, generator=draw), "labels": labels})
    report, _ = watched(lambda: loop(SpeechModel(form).train(), lambda model, b: model(*b.values()), batches))
    assert said(report) == codes
    assert report.verdict == ("fail" if codes else "pass")


class Codec(nn.Module):
    """One table and one head for all codebooks of (B, T, K), the head's slices in their order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix = nn.Embedding(BOOKS * (CODES + 1), WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, BOOKS * CODES, bias=False)

    def forward(self, codes):
        rows = self.mix(self.table(codes + torch.arange(BOOKS) * (CODES + 1)).sum(2))[0]
        return self.head(rows).view(*rows.shape[:2], BOOKS, CODES)


def delayed(count):
    draw = torch.Generator().manual_seed(2)
    for _ in range(count):
        codes = torch.full((3, 12 + BOOKS, BOOKS), CODES)  # padding, which no head scores
        for book in range(BOOKS):
            codes[:, 1 + book : 13 + book, book] = torch.randint(0, CODES, (3, 12), generator=draw)
        yield {"codes": codes}


@pytest.mark.parametrize(
    ("shift", "roll", "codes"), [(1, 0, set()), (0, 0, {"LA102"}), (2, 0, {"LA103"}), (1, 1, {"LA106"})]
)
def test_slices_of_one_head_are_for_codebooks_in_their_order_and_padding_of_a_delay_is_no_target(shift, roll, codes):
    def loss(model, batch):
        logits = model(batch["codes"])
        labels = batch["codes"].masked_fill(batch["codes"] == CODES, -100).roll(roll, -1)
        return F.cross_entropy(logits[:, : logits.shape[1] - shift].flatten(0, 2), labels[:, shift:].flatten())

    report, _ = watched(lambda: loop(Codec().train(), loss, list(delayed(3))))
    assert said(report) == codes
    assert report.verdict == ("fail" if codes else "pass")
