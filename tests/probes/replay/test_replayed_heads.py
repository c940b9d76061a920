"""Heads that read something else than the row before their target: what each may have read, and must not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss


class Talker(nn.Module):
    """A backbone that reads the codes of a frame summed up, and a depth decoder for all codebooks but the first."""

    K, V, D = 3, 40, 32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Embedding(self.V, self.D) for _ in range(self.K))
        self.body = nn.GRU(self.D, self.D, batch_first=True)
        self.depth = nn.GRU(self.D, self.D, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(self.D, self.V) for _ in range(self.K))

    def forward(self, codes):  # (B, T, K)
        return self.body(sum(embed(codes[..., k]) for k, embed in enumerate(self.embed)))[0]

    def frame(self, hidden, codes):  # (N, D), (N, K) -> (N, K - 1, V)
        known = [self.embed[k](codes[:, k]) for k in range(self.K - 1)]
        out = self.depth(torch.stack([hidden, *known], 1))[0]
        return torch.stack([self.heads[k](out[:, k]) for k in range(1, self.K)], 1)


def frames_checked(model, ahead):
    """The report of a loss on codes whose depth decoder is given the state ``ahead`` rows on."""

    def loss(model, batch):
        codes = batch["codes"]
        hidden, after = model(codes), codes[:, 1:].flatten(0, 1)
        first = F.cross_entropy(model.heads[0](hidden[:, :-1]).flatten(0, 1), after[:, 0])
        given = hidden[:, ahead : codes.shape[1] - 1 + ahead].flatten(0, 1)
        return first + F.cross_entropy(model.frame(given, after).flatten(0, 1), after[:, 1:].flatten())

    frames = torch.randint(0, Talker.V, (2, 12, Talker.K), generator=torch.Generator().manual_seed(0))
    streams = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[..., {k}]", "labels": "codes[..., {k}]"}}
    return check_loss(model, {"codes": frames}, loss, streams=streams)


@pytest.mark.parametrize("ahead", [0, 1], ids=["before its frame", "has read its frame"])
def test_a_depth_decoder_that_is_given_a_state_that_has_read_its_frame(ahead):
    report = frames_checked(Talker(), ahead)
    errors = [one.code for one in report.findings if one.is_error]
    assert errors == ["LA102"] * ahead, report.in_short()  # its row is that of the state: it has read its target
    assert report.check("causality").status == "pass"


class FirstAlone(Talker):
    """A backbone that reads the first codebook of a frame alone, as a talker of text and speech does."""

    def forward(self, codes):
        return self.body(self.embed[0](codes[..., 0]))[0]


@pytest.mark.parametrize("ahead", [0, 1], ids=["before its frame", "one frame ahead"])
def test_a_depth_decoder_behind_a_backbone_that_reads_none_of_its_codebooks(ahead):
    """Where the rows of the backbone stand is known by the codebook that it does read."""
    report = frames_checked(FirstAlone(), ahead)
    assert [one.code for one in report.findings if one.is_error] == ["LA102"] * ahead, report.in_short()
    assert report.streams["audio[2]"]["offsets"] == {"0" if ahead else "1": 22}


class State(nn.Module):
    """What a depth decoder is given: a state of the backbone, with frames beside it."""

    def __init__(self, ahead):
        super().__init__()
        self.ahead, self.mix = ahead, nn.Linear(Talker.D, Talker.D)

    def forward(self, hidden, frames):
        return hidden + torch.tanh(self.mix(frames.roll(-self.ahead, 1)))


@pytest.mark.parametrize("ahead", [0, 1], ids=["its own frame", "the frame to predict"])
def test_a_depth_decoder_whose_state_is_mixed_with_a_frame(ahead):
    """The row stays where it is, and has read the frame that it is trained on: no copy by place, and still a leak."""
    model = Talker()
    model.state = State(ahead)

    def loss(model, batch):
        codes = batch["codes"]
        hidden, after = model(codes), codes[:, 1:].flatten(0, 1)
        first = F.cross_entropy(model.heads[0](hidden[:, :-1]).flatten(0, 1), after[:, 0])
        frames = sum(embed(codes[..., k]) for k, embed in enumerate(model.embed))
        given = model.state(hidden, frames)[:, :-1].flatten(0, 1)
        return first + F.cross_entropy(model.frame(given, after).flatten(0, 1), after[:, 1:].flatten())

    codes_of = torch.randint(0, Talker.V, (2, 12, Talker.K), generator=torch.Generator().manual_seed(0))
    streams = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[..., {k}]", "labels": "codes[..., {k}]"}}
    report = check_loss(model, {"codes": codes_of}, loss, streams=streams)
    assert [one.code for one in report.findings if one.is_error] == ["LA401"] * ahead, report.in_short()


def test_a_head_that_predicts_two_ahead_may_read_the_next_token():
    class Ahead(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.body = nn.Embedding(64, 32), nn.GRU(32, 32, batch_first=True)
            self.main, self.mtp = nn.Linear(32, 64), nn.Linear(64, 64)

        def forward(self, text):
            return self.body(self.embed(text))[0]

    def loss(model, batch):
        text = batch["text"]
        hidden = model(text)
        second = model.mtp(torch.cat([hidden[:, :-2], model.embed(text[:, 1:-1])], -1))
        first = F.cross_entropy(model.main(hidden[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        return first + F.cross_entropy(second.flatten(0, 1), text[:, 2:].flatten())

    streams = {"text": {"head": "main", "ids": "text"}, "mtp": {"head": "mtp", "ids": "text", "ahead": 2}}
    report = check_loss(
        Ahead(), {"text": torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(1))}, loss, streams=streams
    )
    assert not [one for one in report.findings if one.code == "LA401"], report.in_short()
