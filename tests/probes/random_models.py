"""Tiny models of the jury of random losses: each has its rows in ``body`` and its head in ``head``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

__all__ = ["ENDS", "model_of"]

#: Ids below this one are special: padding, begin, end.
ENDS = 3
WIDTH = 16


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


def model_of(name: str, vocab: int) -> nn.Module:
    """The model of this name over ``vocab`` ids, always the same."""
    torch.manual_seed(0)
    if name == "plain":
        return Plain(vocab).eval()
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if name == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=vocab, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=64, **special)
        )
        type(model).body = property(lambda self: self.transformer)
    else:
        sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
        tied = {"tie_word_embeddings": name == "tied"}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes, **special, **tied))
        type(model).body = property(lambda self: self.model)
    type(model).head = property(lambda self: self.lm_head)
    return model.eval()
