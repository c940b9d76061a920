"""Speech and text models of people's own: twenty architectures, each with its own batch keys and its own loss.

Small random torch modules, shaped as public models are. Every one has a right loss and wrong ones, with the code
that each must be given, and its streams as a user would declare them. No model here has ``input_ids``, ``labels`` or
``get_output_embeddings`` unless the one that it is like has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ZOO", "Architecture", "by_name"]

B, D = 2, 32


@dataclass(frozen=True)
class Architecture:
    """A model, its batch, its losses and its streams.

    Attributes:
        name: of the kind.
        model: makes it.
        batch: makes its batch.
        right: the loss that it is trained with.
        wrong: by name, losses with a fault, and the code that each must be given.
        streams: the declaration.
        offsets: of each stream under the right loss, where not +1.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Any]]
    right: Callable[..., Any]
    wrong: Mapping[str, tuple[Callable[..., Any], str]]
    streams: Mapping[str, Any]
    offsets: Mapping[str, int] = field(default_factory=dict)


def ids(seed: int, high: int, *shape: int, low: int = 3) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def ce(logits: torch.Tensor, target: torch.Tensor, **more: Any) -> torch.Tensor:
    """Cross-entropy over (..., V) and (...)."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), **more)


class Causal(nn.Module):
    """A causal transformer of one layer and its last norm."""

    def __init__(self, width: int = D) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, device=x.device).triu(1)
        return self.norm(self.layer(x, src_mask=mask))


# -- a text head and K heads of codebooks ------------------------------------------------------------

K, VA, VT = 4, 64, 100


class TextAndBooks(nn.Module):
    """Text and K codebooks on one sequence, a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.text_table = nn.Embedding(VT, D)
        self.tables = nn.ModuleList(nn.Embedding(VA, D) for _ in range(K))
        self.body = nn.GRU(D, D, batch_first=True)
        self.text_head = nn.Linear(D, VT)
        self.heads = nn.ModuleList(nn.Linear(D, VA) for _ in range(K))

    def forward(self, text, codes):  # (B, T), (B, K, T) -> (B, T, VT), (B, K, T, VA)
        x = self.text_table(text) + sum(table(codes[:, k]) for k, table in enumerate(self.tables))
        h = self.body(x)[0]
        return self.text_head(h), torch.stack([head(h) for head in self.heads], 1)


def text_and_books(audio):
    def loss(model, batch):
        text, codes = model(batch["text"], batch["codes"])
        return ce(text[:, :-1], batch["text"][:, 1:]) + audio(codes, batch["codes"])

    return loss


# -- MOSS: channels of several vocabularies, ids (B, T, K) -------------------------------------------


class Channels(nn.Module):
    """Channel 0 holds text and speech, the others speech: heads of two vocabularies."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (120, 64, 64)
        self.tables = nn.ModuleList(nn.Embedding(size, D) for size in sizes)
        self.model = Causal()
        self.lm_heads = nn.ModuleList(nn.Linear(D, size) for size in sizes)

    def forward(self, input_ids):  # (B, T, 3)
        h = self.model(sum(table(input_ids[..., k]) for k, table in enumerate(self.tables)))
        return [head(h) for head in self.lm_heads]


def channels(shift):
    def loss(model, batch):
        per = zip(model(batch["input_ids"]), batch["labels"].unbind(-1), strict=True)
        return sum(ce(z[:, : z.shape[1] - shift], y[:, shift:]) for z, y in per)

    return loss


def channels_batch():
    codes = torch.stack([ids(k, 120 if k == 0 else 64, B, 18) for k in range(3)], -1)
    labels = codes.clone()
    labels[:, :5] = -100
    return {"input_ids": codes, "labels": labels}


# -- CSM: a backbone for codebook 0, a depth decoder with parameters for the rest --------------------


class Depth(nn.Module):
    """The heads of the depth decoder are one parameter, behind an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(80, D)
        self.audio = nn.Embedding(VA * K, D)
        self.backbone = nn.GRU(D, D, batch_first=True)
        self.decoder = nn.GRU(D, D, batch_first=True)
        self.codebook0_head = nn.Linear(D, VA, bias=False)
        self.audio_head = nn.Parameter(torch.randn(K - 1, D, VA) * 0.1)

    def forward(self, tokens, mask):  # (B, T, K + 1) both
        audio = self.audio(tokens[..., :-1] + VA * torch.arange(K))
        return self.backbone((torch.cat([audio, self.text(tokens[..., -1:])], -2) * mask[..., None]).sum(-2))[0]

    def depth(self, h, codes):  # (N, D), (N, K) -> (N, K - 1, VA)
        known = self.audio(codes[:, :-1] + VA * torch.arange(K - 1))
        out = self.decoder(torch.cat([h[:, None], known], 1))[0]
        return torch.einsum("nkd,kdv->nkv", out[:, 1:], self.audio_head)


def depth_batch():
    tokens, mask = torch.zeros(B, 14, K + 1, dtype=torch.long), torch.zeros(B, 14, K + 1, dtype=torch.bool)
    tokens[:, :5, -1], mask[:, :5, -1] = ids(0, 80, B, 5), True
    tokens[:, 5:, :K], mask[:, 5:, :K] = ids(1, VA, B, 9, K), True
    return {"tokens": tokens, "mask": mask}


def depth_right(model, batch):
    h, frame, codes = model(**batch), batch["mask"][:, 1:, 0], batch["tokens"][:, 1:, :K]
    first = ce(model.codebook0_head(h[:, :-1])[frame], codes[..., 0][frame])
    return first + ce(model.depth(h[:, :-1][frame], codes[frame]), codes[frame][:, 1:])


def depth_neighbour(model, batch):
    """The column of codebook 0 was dropped, and nothing shifted."""
    h, codes, frame = model(**batch), batch["tokens"][..., 1:], batch["mask"][..., 1:-1].any(-1)
    return ce(model.codebook0_head(h)[frame], codes[..., 0][frame])


def depth_copy(model, batch):
    h, frame, codes = model(**batch), batch["mask"][..., 0], batch["tokens"][..., :K]
    return ce(model.codebook0_head(h)[frame], codes[..., 0][frame]) + 0 * model.depth(h[frame], codes[frame]).sum()


ZOO = [
    Architecture(
        "text and K codebooks",
        TextAndBooks,
        lambda: {"text": ids(1, VT, B, 20), "codes": ids(2, VA, B, K, 20)},
        text_and_books(lambda z, y: ce(z[:, :, :-1], y[:, :, 1:])),
        {
            "copy": (text_and_books(ce), "LA102"),
            "rotated codebooks": (text_and_books(lambda z, y: ce(z[:, :, :-1], y.roll(1, 1)[:, :, 1:])), "LA106"),
        },
        {
            "text": {"head": "text_head", "ids": "text"},
            "audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]"},
        },
    ),
    Architecture(
        "channels of several vocabularies",
        Channels,
        channels_batch,
        channels(1),
        {"not shifted": (channels(0), "LA102"), "shifted twice": (channels(2), "LA103")},
        {"audio[{k}]": {"head": "lm_heads.{k}", "ids": "input_ids[..., {k}]", "labels": "labels[..., {k}]"}},
    ),
    Architecture(
        "backbone and depth decoder",
        Depth,
        depth_batch,
        depth_right,
        {"next codebook": (depth_neighbour, "LA106"), "copy": (depth_copy, "LA102")},
        {
            "audio[0]": {"head": "codebook0_head", "ids": "tokens[..., 0]", "mask": "mask[..., 0]"},
            **{
                f"audio[{k}]": {
                    "head": f"audio_head[:, {k - 1}]",
                    "ids": f"tokens[..., {k}]",
                    "mask": f"mask[..., {k}]",
                }
                for k in range(1, K)
            },
        },
    ),
]


def by_name(name: str) -> Architecture:
    return next(one for one in ZOO if one.name == name)
