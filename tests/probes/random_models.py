"""Tiny models of the jury of random losses: each has its rows in ``body`` and its head in ``head``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

__all__ = ["BOOKS", "ENDS", "MODELS", "model_of"]

#: Ids below this one are special: padding, begin, end.
ENDS = 3
WIDTH = 16
#: Codebooks of the model of several heads.
BOOKS = 2
MODELS = ("llama", "tied", "biased", "gpt2", "plain", "t5", "books")
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Plain(nn.Module):
    """A module of one's own: an embedding, a recurrent layer and a head."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.body = Body(vocab)
        self.head = nn.Linear(WIDTH, vocab, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.body(input_ids)[0])


class Body(nn.Module):
    """The rows of a plain module."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, WIDTH)
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.mix(self.embed(input_ids))


class Books(nn.Module):
    """A module of one's own with a head for each codebook of (B, K, T)."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(vocab, WIDTH) for _ in range(BOOKS))
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, vocab, bias=False) for _ in range(BOOKS))

    def forward(self, codes: Tensor) -> list[Tensor]:
        hidden, _ = self.mix(sum(one(codes[:, k]) for k, one in enumerate(self.embed)))
        return [head(hidden) for head in self.heads]


def model_of(name: str, vocab: int) -> nn.Module:
    """The model of this name over ``vocab`` ids, always the same."""
    torch.manual_seed(0)
    if name in ("plain", "books"):
        return (Plain if name == "plain" else Books)(vocab).eval()
    if name == "t5":
        sizes = {"d_model": WIDTH, "d_ff": WIDTH, "d_kv": 8, "num_heads": 2, "num_layers": 1}
        special = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
        return T5ForConditionalGeneration(T5Config(vocab_size=vocab, **sizes, **special)).eval()
    if name == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=vocab, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=64, **SPECIAL)
        )
        type(model).body = property(lambda self: self.transformer)
    else:
        sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
        tied = {"tie_word_embeddings": name == "tied"}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes, **SPECIAL, **tied))
        type(model).body = property(lambda self: self.model)
    if name == "biased":  # a head of one's own in the place of the model's
        model.lm_head = nn.Linear(WIDTH, vocab)
    type(model).head = property(lambda self: self.lm_head)
    return model.eval()
