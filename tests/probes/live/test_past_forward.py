"""Modules of people's own whose forward a loop passes by: it calls their parts, and the head or its weight."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import loop, watched
from random_models import Plain
from torch import nn

VOCAB = 40


class Parts(nn.Module):
    """No part of it gives what the head reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.wpe = nn.Embedding(VOCAB, 16), nn.Embedding(64, 16)
        self.mix, self.lm_head = nn.GRU(16, 16, batch_first=True), nn.Linear(16, VOCAB)

    def rows(self, ids):
        return self.mix(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))[0]


def plain():
    torch.manual_seed(0)
    return Plain(VOCAB).train()


def batch():
    ids = torch.randint(3, VOCAB, (4, 12), generator=torch.Generator().manual_seed(1))
    return {"ids": ids}


def crossed(logits, ids, ahead):
    end = ids.shape[1] - ahead
    return F.cross_entropy(logits[:, :end].flatten(0, 1), ids[:, ahead:].flatten())


HEADS = {
    "called": lambda model, rows: model.head(rows),
    "multiplied": lambda model, rows: rows @ model.head.weight.T,
    "in chunks": lambda model, rows: torch.cat([model.head(part) for part in rows.split(5, 1)], 1),
}


@pytest.mark.parametrize("how", HEADS)
@pytest.mark.parametrize(("ahead", "code"), [(1, None), (0, "LA102"), (2, "LA103")])
def test_a_part_that_gives_what_the_head_reads_is_a_body(how, ahead, code):
    def loss(model, given):
        return crossed(HEADS[how](model, model.body(given["ids"])[0]), given["ids"], ahead)

    report, _ = watched(lambda: loop(plain(), loss, [batch()] * 2))
    assert {one.code for one in report.findings} == ({code} if code else set())


@pytest.mark.parametrize(("ahead", "code"), [(1, "LA805"), (0, "LA102"), (2, "LA103")])
def test_a_table_that_the_script_asks_begins_a_forward(ahead, code):
    def loss(model, given):
        return crossed(model.lm_head(model.rows(given["ids"])), given["ids"], ahead)

    report, _ = watched(lambda: loop(Parts().train(), loss, [batch()] * 2))
    assert code in {one.code for one in report.findings}
    assert {one.code for one in report.findings if one.is_error} == ({code} if ahead != 1 else set())


def test_a_table_that_is_asked_for_other_ids_too_says_nothing():
    def loss(model, given):
        rows = model.rows(given["ids"])
        model.wte(given["ids"].flip(1))
        return crossed(model.lm_head(rows), given["ids"], 1)

    report, _ = watched(lambda: loop(Parts().train(), loss, [batch()] * 2))
    assert [one.code for one in report.findings] == ["LA804"]
    assert "asked twice" in report.findings[0].message


def test_nothing_stays_at_the_module():
    model = plain()
    watched(
        lambda: loop(
            model, lambda model, given: crossed(model.head(model.body(given["ids"])[0]), given["ids"], 1), [batch()]
        )
    )
    assert not any("forward" in vars(part) for part in model.modules())
