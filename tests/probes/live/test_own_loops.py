"""Small GPTs written out by hand and trained in loops of their own: right without an option, and each fault named."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import watched
from torch import nn

VOCAB, PADDED, LENGTH = 100, 128, 24


class Block(nn.Module):
    """Causal attention and a feed-forward layer."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        size, length, width = x.shape
        q, k, v = (
            part.view(size, length, self.heads, -1).transpose(1, 2) for part in self.attn(self.norm_1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(size, length, width)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm_2(x))


class Body(nn.Module):
    """Embeddings of tokens and places, two blocks, and a head of some width."""

    def __init__(self, head=VOCAB):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.wpe = nn.Embedding(head, 16), nn.Embedding(LENGTH, 16)
        self.h = nn.ModuleList([Block(), Block()])
        self.ln_f, self.lm_head = nn.LayerNorm(16), nn.Linear(16, head, bias=False)

    def hidden(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class Nano(Body):
    """A tied head, and the loss inside the forward; -1 is no target."""

    def __init__(self):
        super().__init__()
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        logits = self.lm_head(self.hidden(idx))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class Chat(Body):
    """A head of padded width whose logits are cut, cast and capped; the loss inside the forward, too."""

    def __init__(self):
        super().__init__(PADDED)

    def forward(self, idx, targets):
        logits = self.lm_head(self.hidden(idx))[..., :VOCAB].float()
        return F.cross_entropy((15 * torch.tanh(logits / 15)).flatten(0, 1), targets.flatten(), ignore_index=-1)


class Lit(Body):
    """A head of padded width that is called in chunks of rows, whose logits are a list."""

    def __init__(self):
        super().__init__(PADDED)

    def forward(self, idx, chunk=8):
        return [self.lm_head(part) for part in self.hidden(idx).split(chunk, 1)]


def windows(shift):
    """``x = data[i:i+T]``, ``y = data[i+1:i+T+1]`` of a text whose tokens are as frequent as those of text are."""
    text = torch.multinomial(1 / torch.arange(1.0, VOCAB + 1), 4096, replacement=True)
    at = torch.randint(len(text) - LENGTH - 2, (4,)).tolist()
    return tuple(torch.stack([text[i + by : i + by + LENGTH] for i in at]) for by in (0, shift))


def second_half(shift):
    """As above, and the first half of each window is no target."""
    x, y = windows(shift)
    return x, y.masked_fill(torch.arange(LENGTH) < LENGTH // 2, -1)


def nano(model, x, y):
    return model(x, y)[1]


def chat(model, x, y):
    return model(x, y)


def lit(model, x, y):
    """Cross-entropy chunk by chunk, over all targets."""
    chunks = zip(model(x), y.split(8, 1), strict=True)
    losses = [F.cross_entropy(logits.flatten(0, 1), some.flatten(), reduction="none") for logits, some in chunks]
    return torch.cat(losses).mean()


def sliced(model, x, y):
    """One call, the model's own shift left to the loop, and padded columns sliced off."""
    logits = torch.cat(model(x), 1)[:, :-1, :VOCAB]
    return F.cross_entropy(logits.flatten(0, 1), y[:, :-1].flatten())


LOOPS = {
    "nano": (Nano, nano, windows),
    "nano, half of it": (Nano, nano, second_half),
    "chat": (Chat, chat, windows),
    "lit": (Lit, lit, windows),
    "lit, sliced": (Lit, sliced, windows),
}


def run(kind, loss, draw, shift, *, compiled=False, accumulate=2):
    """Train four steps of two micro-batches, clipped: the report and the exit code."""
    model = kind()

    def train():
        called = torch.compile(model, backend="eager") if compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(2):
            for _ in range(accumulate):
                (loss(called, *draw(shift)) / accumulate).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    report, code = watched(train, eager=compiled)
    assert report is not None
    return report, code


@pytest.mark.parametrize(("kind", "loss", "draw"), LOOPS.values(), ids=LOOPS)
def test_a_right_loop_is_read_without_an_option(kind, loss, draw):
    report, code = run(kind, loss, draw, 1)
    assert ([one.code for one in report.findings if not one.is_blind], code) == ([], 0)
    assert report.streams
    assert all(set(one["offsets"]) <= {"1", "outside"} for one in report.streams.values()), report.streams


@pytest.mark.parametrize(("shift", "code"), [(0, "LA102"), pytest.param(2, "LA103", marks=pytest.mark.deep)])
@pytest.mark.parametrize(("kind", "loss", "draw"), LOOPS.values(), ids=LOOPS)
def test_a_wrong_shift_is_named(kind, loss, draw, shift, code):
    report, _ = run(kind, loss, draw, shift)
    assert [one.code for one in report.findings if one.is_error] == [code]


@pytest.mark.parametrize(("shift", "due"), [(0, ["LA102"]), (1, [])])
def test_a_compiled_one_is_read_with_one_option(shift, due):
    report, _ = run(Nano, nano, windows, shift, compiled=True)
    assert [one.code for one in report.findings if one.is_error] == due
    assert report.streams
