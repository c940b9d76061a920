"""Steps that are joined: what is known of a row's gradient stays known, whichever step it came from."""

import pytest
import torch
from live_runs import loop, watched
from speech_zoo import VA, K, by_name, ce

from alignment import Stream
from alignment.recovery import Form, Reading
from alignment.rules.la303_uneven_codebooks import uneven_codebooks
from probes.live.joined import Part, join
from probes.models.adapter import View

BOOKS = by_name("text and K codebooks")


def part(*forms, rows=8):
    """One step: codebooks of which each weighs twice as much as the one before, read with these forms."""
    place = torch.arange(rows)
    streams = [
        Stream(f"audio[{k}]", place + 10 * k, 0 * place, 0 * place, place, 64, place < 0) for k in range(len(forms))
    ]
    readings = [
        Reading(one.ids.roll(-1), 0.0 * place.double() + 2**k, 0.0 * place.double(), 0 * place + int(form))
        for k, (one, form) in enumerate(zip(streams, forms, strict=True))
    ]
    return Part(View(tuple(streams), (None,) * len(forms), (None,) * len(forms)), readings)


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True)])
def test_rows_whose_weights_are_rough_stay_known_as_such(first, second):
    steps = [part(Form.PLAIN, Form.NOT_PLAIN if rough else Form.PLAIN) for rough in (first, second)]
    joined = join(steps)
    assert [int(one.mixed.sum()) for one in joined.actual] == [0, 8 * (first + second)]
    assert [found.code for found in uneven_codebooks(joined.actual)] == ([] if first or second else ["LA303"])


def sampled(share):
    """Cross-entropy of each row among its target and ids that are left in for all: how much it weighs is rough."""
    left = torch.arange(VA) % 8 < share

    def criterion(logits, target):
        own = logits.gather(-1, target[..., None])
        others = logits[..., left].masked_fill(torch.arange(VA)[left] == target[..., None], -torch.inf)
        return (torch.cat([own, others], -1).logsumexp(-1) - own[..., 0]).mean()

    return criterion


def twice(logits, target):
    return 2 * ce(logits, target)


@pytest.mark.parametrize(
    ("criteria", "codes"),
    [([sampled(share) for share in (7, 4, 5, 6)], set()), ([twice, *[ce] * (K - 1)], {"LA303"})],
    ids=["sampled", "uneven"],
)
def test_codebooks_are_compared_where_their_weights_are_exact(criteria, codes):
    def loss(model, batch):
        text, logits = model(**batch)
        mine = (one(logits[:, k, :-1], batch["codes"][:, k, 1:]) for k, one in enumerate(criteria))
        return ce(text[:, :-1], batch["text"][:, 1:]) + sum(mine)

    torch.manual_seed(0)
    model, batch = BOOKS.model(), BOOKS.batch()
    report, _ = watched(lambda: loop(model, loss, [batch] * 3))
    assert {one.code for one in report.findings} == codes
