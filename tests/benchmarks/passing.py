"""The reading pass of a deep body whose layers are passed by, beside that in which all of them run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Figure, Size, compared
from transformers import LlamaConfig, LlamaForCausalLM

from probes.models import adapter_for
from probes.witness.witness import Options, witness

__all__ = ["passing"]


def passing(size: Size) -> Iterator[Figure]:
    """Time of one pass over 32 layers, passed by and run."""
    layers, hidden, length = size.pick((4, 64, 64), (32, 1024, 1024), (32, 1024, 1024))
    vocab = size.pick(1 << 10, 32000, 128256)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=length,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(size.device).train()
    ids = torch.randint(3, vocab, (1, length)).to(size.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    def run(*, whole: bool) -> None:
        seen = witness(model, adapter_for(model), batch, lambda m, b: m(**b).loss, Options(whole=whole))
        assert not seen.findings, seen.findings

    (pair,) = compared(lambda: run(whole=False), [lambda: run(whole=True)], size)
    cell = f"{layers} layers, V {vocab}, H {hidden}, T {length}, float32"
    limit = None if size.name == "tiny" else 0.25
    yield Figure("reading pass", "layers passed by / all run", cell, pair.ratio, limit=limit, detail=str(pair))
