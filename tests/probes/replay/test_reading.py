"""The dependency map: what each row has read as far as the cuts tell, and leaks where they are, in a bounded size."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import OLD
from test_replay import LENGTH, llama, masked_by_the_loss, own, packed, seen_through, tokens
from torch import nn

from alignment import Stream
from probes import check_loss
from probes.models.adapter import Layout, View
from probes.replay.cuts import Place, Places
from probes.replay.leaks import Leaks
from probes.replay.reading import SIDE, Reading


def maps(model, batch, loss, **options):
    return check_loss(model, batch, loss, **options).causality["maps"]


def batch(size=1):
    x = tokens(size)
    return {"input_ids": x, "labels": x.clone()}


def test_every_row_of_a_causal_model_ends_before_its_target():
    (drawn,) = maps(llama(), batch(), own, replay="full")
    assert drawn["lines"] == ["█" * (row + 1) + "·" * (LENGTH - 1 - row) for row in range(LENGTH)]
    assert drawn["targets"] == [*range(1, LENGTH), -1]
    assert (drawn["trained"], drawn["leaking"], drawn["untold"]) == (LENGTH - 1, 0, 0)


def test_what_lies_between_two_cuts_is_not_told():
    (drawn,) = maps(llama(), batch(), own)
    assert {sign for line in drawn["lines"] for sign in line} == set("█·░")
    full = ["█" * (row + 1) + "·" * (LENGTH - 1 - row) for row in range(LENGTH)]
    pairs = zip("".join(drawn["lines"]), "".join(full), strict=True)
    assert all(mine in ("░", right) for mine, right in pairs)


@pytest.mark.parametrize("trained", [True, False])
def test_a_visible_prefix_is_read_and_a_leak_only_where_it_is_trained(trained):
    given = batch()
    if not trained:
        given["labels"][:, :12] = -100
    (drawn,) = maps(llama(), given, masked_by_the_loss(seen_through(prefix=12)), replay="full")
    for row, line in zip(range(drawn["rows"][0], LENGTH), drawn["lines"], strict=True):
        seen = max(12, row + 1)
        own_target = row + 1 if trained and row < 11 else seen
        assert line == "█" * own_target + "!" * (seen - own_target) + "·" * (LENGTH - seen)
    assert drawn["leaking"] == (11 if trained else 0)


@pytest.mark.skipif(OLD, reason="transformers 4.46 keeps documents apart under flash attention alone")
def test_another_document_is_a_block_of_its_own():
    (drawn,) = maps(llama(), packed(use_cache=True), own)
    assert all(line[:10] == "!" * 10 for line in drawn["lines"][10:19])
    assert all("!" not in line[10:] for line in drawn["lines"])
    (drawn,) = maps(llama(), packed(use_cache=False), own)
    assert not any("!" in line for line in drawn["lines"])
    assert all(line[:10] == "·" * 10 for line in drawn["lines"][10:19])


def test_what_is_read_of_other_samples_stands_beside_the_map():
    model = llama()
    model.model.norm.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.roll(1, dims=0))
    for much in (True, "full"):
        drawn = maps(model, batch(2), own, replay=much)
        assert [one["sample"] for one in drawn] == [0, 1]
        assert all(one["leaking"] for one in drawn)
    for one in maps(model, batch(2), own):
        assert any(one["others"])
        assert not any("!" in line for line in one["lines"])


class Codec(nn.Module):
    """Codebooks in a delay-less frame; the last may look one frame ahead."""

    K, V = 3, 40

    def __init__(self, *, ahead):
        super().__init__()
        torch.manual_seed(0)
        self.ahead, self.embed, self.body = ahead, nn.Embedding(self.V, 32), nn.GRU(32, 32, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(32, self.V) for _ in range(self.K))

    def forward(self, codes):
        hidden = self.body(self.embed(codes).sum(2))[0]
        last = hidden + 0.5 * hidden.roll(-1, 1) if self.ahead else hidden
        return [head(last if k == self.K - 1 else hidden) for k, head in enumerate(self.heads)]


@pytest.mark.parametrize("ahead", [False, True])
def test_codebooks_share_a_map_and_stand_above_frames(ahead):
    def loss(model, batch):
        codes = batch["codes"]
        return sum(F.cross_entropy(z[:, :-1].mT, codes[:, 1:, k]) for k, z in enumerate(model(codes)))

    codes = torch.randint(0, Codec.V, (1, 12, Codec.K), generator=torch.Generator().manual_seed(0))
    streams = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[..., {k}]"}}
    (drawn,) = maps(Codec(ahead=ahead), {"codes": codes}, loss, streams=streams, replay="full")
    assert drawn["streams"] == ["audio[0]", "audio[1]", "audio[2]"]
    assert drawn["books"] == ["█" * 11 + "·"] * 2 + [("!" if ahead else "█") * 11 + "·"]
    assert any("!" in line for line in drawn["lines"]) == ahead


def long_reading(length):
    rows = torch.arange(length)
    zero = torch.zeros_like(rows)
    stream = Stream("text", rows + 3, zero, zero, rows, length + 3, zero.bool())
    view = View((stream,), (None,), (None,))
    layout = Layout((rows,), ("text",), zero)
    places = Places(view, layout, (rows < length - 1,), (rows + 1,), (zero,))
    return rows, places


def test_a_map_of_any_length_has_at_most_so_many_steps():
    length = 16384
    rows, places = long_reading(length)
    reading, leaks = Reading(places), Leaks.none(places)
    for at in (1000, 9001, 16000):
        cuts, moved = [Place(0, at, 0, "inside text")], [(rows >= at) | (rows == 40)]
        reading.add(cuts, moved)
        leaks.add(cuts, moved)
    (drawn,) = reading.maps(leaks, lambda *_, **__: [torch.zeros(length).bool()])
    assert len(drawn.lines) == len(drawn.targets) == len(drawn.lines[0]) == SIDE
    assert drawn.leaking == 1
    assert len(str(drawn.as_dict())) < 8000
