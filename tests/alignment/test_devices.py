"""What is made along the way lies where the arguments lie: with the meta device for a default, anything else fails."""

from dataclasses import fields, is_dataclass

import pytest
import torch
import torch.nn.functional as F
from planted import LABELS, RIGHT, TEXT, VOCAB, moved

from alignment import expand, expect, infer_convention, read, recover, text_stream
from alignment.blocks import BLOCK, likeliest, place_of_least
from alignment.expansion import lengths_from_starts
from alignment.glance import LEAST_VOCABULARY, glance
from alignment.hidden import read_hidden
from alignment.noise import tiled
from alignment.penalties import penalties
from alignment.sketch import sketch
from alignment.sketched import read_sketched
from alignment.sources import infer_sources
from alignment.targets import trained_whole
from alignment.taught import taught_by

IDS = torch.arange(12).view(2, 6) + 3
LOGITS = torch.randn(6, LEAST_VOCABULARY, generator=torch.Generator().manual_seed(0))
SPREAD = torch.softmax(LOGITS, -1) / 6
GRADIENT = SPREAD - F.one_hot(torch.arange(6) + 7, LEAST_VOCABULARY) / 6
HEAD = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
TARGETS = moved(TEXT, 2)
READING = recover(lambda z: F.cross_entropy(z, TARGETS), torch.zeros(len(TEXT), VOCAB))
PUSHED = recover(
    lambda z: F.cross_entropy(z[:9], RIGHT[0][:9]) - F.cross_entropy(z[9:], TEXT.ids[9:]), torch.zeros(len(TEXT), VOCAB)
)

WORK = {
    "blocks: the least": lambda: place_of_least(LOGITS),
    "blocks: the likeliest": lambda: likeliest(LOGITS[:, : 9 * BLOCK + 5], 3),
    "expansion": lambda: expand(IDS, IDS > 0, torch.ones_like(IDS), frames=(9,), pad_id=0, labels=IDS),
    "expansion: starts": lambda: lengths_from_starts(IDS[0], 20),
    "glance": lambda: glance(GRADIENT, LOGITS),
    "hidden": lambda: read_hidden(GRADIENT[:, :64], LOGITS[:, :64], HEAD, HEAD[:, 0]),
    "noise": lambda: tiled(LOGITS[:3], (2, 3, LEAST_VOCABULARY)),
    "penalties": lambda: penalties(SPREAD - 1 / LEAST_VOCABULARY, LOGITS),
    "recovery": lambda: read(GRADIENT, LOGITS),
    "recovery: repeated": lambda: read(GRADIENT, LOGITS[:3], period=3),
    "recovery: nothing": lambda: read(None, LOGITS),
    "sketch": lambda: sketch(LOGITS),
    "sketched": lambda: read_sketched(GRADIENT, sketch(LOGITS)),
    "sources": lambda: infer_sources([READING], [TEXT]),
    "sources: pushed": lambda: infer_sources([PUSHED], [TEXT]),
    "streams: text": lambda: text_stream(IDS, 50, documents=IDS // 4, placeholders=(5,), pad_ids=(14,)).places(),
    "supervision": lambda: expect(LABELS, TEXT),
    "targets": lambda: trained_whole(LABELS, TEXT),
    "labels": lambda: infer_convention(LABELS, TEXT),
    "taught": lambda: taught_by(GRADIENT[:, :64], LOGITS[:, :64], [LOGITS[:, 1:65], LOGITS[:, 2:66]]),
}


def tensors(result):
    """All tensors of a result, of whatever it is made."""
    if isinstance(result, torch.Tensor):
        return [result]
    if is_dataclass(result):
        return tensors([getattr(result, field.name) for field in fields(result)])
    return [one for part in result for one in tensors(part)] if isinstance(result, list | tuple) else []


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_nothing_is_made_on_the_default_device(work):
    wanted = work()
    with torch.device("meta"):
        result = work()
    for one, other in zip(tensors(result), tensors(wanted), strict=True):
        assert one.device == other.device
        assert torch.equal(one, other)
