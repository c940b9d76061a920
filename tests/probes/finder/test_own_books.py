"""A head that is trained on another codebook than its own is named so, also where it stands alone."""

import pytest
import torch
from speech_zoo import VA, B, D, K, by_name, ce, ids
from torch import nn

from probes import check_loss, discover

DEPTH = by_name("backbone and depth decoder")


def errors(report):
    return [(one.code, one.stream) for one in report.findings if one.is_error]


def first_alone(book, shift):
    """The backbone's head alone, on a codebook so many frames on."""

    def loss(model, batch):
        rows = model(**batch)[:, : 14 - shift]
        frame = batch["mask"][:, shift:, 0]
        return ce(model.codebook0_head(rows)[frame], batch["tokens"][:, shift:, book][frame])

    return loss


@pytest.mark.parametrize(
    ("book", "shift", "told"),
    [(0, 1, []), (0, 0, [("LA102", "audio[0]")]), (0, 2, [("LA103", "audio[0]")]), (1, 0, [("LA106", "audio[0]")])],
)
def test_a_head_alone_is_for_the_codebook_that_its_name_says(book, shift, told):
    report = check_loss(DEPTH.model(), DEPTH.batch(), first_alone(book, shift))
    assert errors(report) == told
    assert list(report.streams) == ["audio[0]"]


@pytest.mark.parametrize(("book", "shift", "where"), [(1, 0, "of their own frame"), (3, 1, "of the next frame")])
@pytest.mark.parametrize("mask", [{}, {"mask": "mask[..., 0]"}], ids=["nobody says what", "masked"])
def test_a_codebook_that_is_declared_alone_is_held_to_those_beside_it(book, shift, where, mask):
    streams = {"audio[0]": {"head": "codebook0_head", "ids": "tokens[..., 0]", **mask}}
    report = check_loss(DEPTH.model(), DEPTH.batch(), first_alone(book, shift), streams=streams)
    assert errors(report) == [("LA106", "audio[0]")]
    assert f"tokens[..., {book}] {where}" in report.findings[0].message
    assert not errors(check_loss(DEPTH.model(), DEPTH.batch(), first_alone(0, 1), streams=streams))


def test_what_is_written_down_says_where_the_targets_stand():
    (found,) = discover(DEPTH.model(), DEPTH.batch(), first_alone(1, 0)).found
    assert (str(found.declaration.ids), str(found.declaration.mask)) == ("tokens[:, :, 0]", "mask[:, :, 0]")
    assert "its targets are those of tokens[:, :, 1], another codebook than its head is for" in found.evidence


class Heads(nn.Module):
    """So many heads over K codebooks."""

    def __init__(self, count):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VA, D) for _ in range(K))
        self.body, self.heads = nn.GRU(D, D, batch_first=True), nn.ModuleList(nn.Linear(D, VA) for _ in range(count))

    def forward(self, codes):  # (B, K, T)
        return self.body(sum(table(codes[:, k]) for k, table in enumerate(self.tables)))[0]


@pytest.mark.parametrize(
    ("count", "book", "told"),
    [(K, 2, ("LA106", "audio[1]")), (K, 1, ("LA102", "audio[1]")), (K - 1, 2, ("LA102", "audio[2]"))],
    ids=["of another", "of its own", "a predictor of the rest"],
)
def test_one_of_as_many_heads_as_codebooks_is_for_that_of_its_number(count, book, told):
    torch.manual_seed(0)
    batch = {"codes": ids(2, VA, B, K, 20)}
    loss = lambda model, batch: ce(model.heads[1](model(batch["codes"])), batch["codes"][:, book])  # noqa: E731
    assert errors(check_loss(Heads(count), batch, loss)) == [told]
