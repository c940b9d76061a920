"""``run --head``: heads of people's own, called on some rows, of padded width, or without a width of their own."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, watched
from torch import nn

from probes import check_loss

V, LENGTH = 100, 32


class Adapted(nn.Module):
    """A wrapper around a layer, which has neither its weight nor its ``out_features``."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, V, bias=False).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 16) * 0.1), nn.Parameter(torch.zeros(V, 2))

    def forward(self, x):
        return self.linear(x) + x @ self.a.T @ self.b.T


class Twice(nn.Module):
    """Gives two scores an id: nobody can know what they mean."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, V - 10)

    def forward(self, x):
        return self.linear(x).repeat(1, 1, 2)


class Own(nn.Module):
    """Embedding, a recurrent layer, a head; ten columns of it are padding."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.mix, self.head = nn.Embedding(V, 16), nn.GRU(16, 16, batch_first=True), head()
        self.config = SimpleNamespace(vocab_size=V - 10)

    def forward(self, idx, keep=None, chunks=1):
        hidden = self.mix(self.wte(idx))[0]
        parts = (hidden if keep is None else hidden[keep]).chunk(chunks, dim=-2)
        return torch.cat([self.head(part) for part in parts], -2)


def plain():
    return nn.Linear(16, V, bias=False)


def train(head, *, masked=False, chunks=1, shift=1):
    """Three steps on random ids, the first ten of each sample a prompt."""
    model, draw = Own(head), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        ids = torch.randint(0, V - 10, (4, LENGTH), generator=draw)
        target = F.pad(ids[:, shift:], (0, shift), value=-100)
        target[:, :10] = -100
        keep = target >= 0
        logits = model(ids, keep if masked else None, chunks)
        F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target[keep] if masked else target.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("how", [{}, {"masked": True}, {"chunks": 4}], ids=["whole", "masked rows", "chunks"])
@pytest.mark.parametrize("head", [plain, Adapted])
def test_a_named_head_is_read_and_its_copy_named(head, how):
    report, _ = watched(lambda: train(head, **how), heads=("head",))
    assert not [one for one in report.findings if one.is_error]
    assert report.streams["text"]["offsets"] == {"1": 168}
    report, code = watched(lambda: train(head, shift=0, **how), heads=("head",))
    assert ([one.code for one in report.findings], code) == (["LA102"], 1)


def test_a_head_that_cannot_be_read_is_no_constant_loss():
    report, _ = watched(lambda: train(Twice), heads=("head",))
    assert (report.verdict, [one.code for one in report.findings]) == ("incomplete", ["LA804"])
    assert "gives 180 scores a row, its vocabulary has 90 ids" in report.findings[0].message


class Behind(nn.Module):
    """The body of a transformers model, cut before layers of one's own and a head that is not the model's."""

    def __init__(self):
        super().__init__()
        self.lm, self.layer, self.head = llama(), nn.Linear(32, 24), nn.Linear(24, VOCAB)

    def forward(self, input_ids, attention_mask=None):
        hidden = self.lm.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(F.gelu(self.layer(hidden[:, :-1])))


class OwnBehind(Behind):
    """The same over a body of one's own."""

    def __init__(self):
        super().__init__()
        self.lm, self.wte, self.mix = None, nn.Embedding(VOCAB, 32), nn.GRU(32, 32, batch_first=True)

    def forward(self, input_ids, attention_mask=None):
        return self.head(F.gelu(self.layer(self.mix(self.wte(input_ids))[0][:, :-1])))


def behind(shift):
    def loss(model, batch):
        logits, target = model(batch["input_ids"], batch["attention_mask"]), batch["labels"][:, shift:]
        count = min(logits.shape[1], target.shape[1])
        return F.cross_entropy(logits[:, :count].flatten(0, 1), target[:, :count].flatten())

    return loss


@pytest.mark.parametrize("heads", [(), ("head",)], ids=["found", "named"])
@pytest.mark.parametrize("model", [Behind, OwnBehind])
def test_a_head_behind_layers_and_a_cut_is_read_by_every_door(model, heads):
    for shift, codes in ((1, []), (0, ["LA102"])):
        report, _ = watched(lambda shift=shift: loop(model(), behind(shift), batches(2)), heads=heads)
        assert [one.code for one in report.findings if one.is_error] == codes
        assert list(report.streams) == ["text"]
        assert report.streams["text"]["offsets"] == {str(shift): 35}
        report = check_loss(model(), batches(1)[0], behind(shift), heads=heads)
        assert [one.code for one in report.findings] == codes
