"""Fuzz throughput: examples a second through a real model, and where their time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest.mock import patch

import torch
from measure import Figure, Size

from probes.checks.engine import default_loss
from probes.fuzzing.fuzz import Contract, fuzz
from probes.host.allocator import keep_freed_memory
from probes.models import adapter_for
from probes.models.higgs import small_model, why_unavailable

__all__ = ["fuzzing"]


def _model(size: Size) -> tuple[str, torch.nn.Module]:
    if why_unavailable() is None:
        return "HiggsAudioModel (small)", small_model().to(size.device)
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab = size.pick(1 << 10, 128256, 128256)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    return "LlamaForCausalLM (small)", LlamaForCausalLM(config).to(size.device)


def fuzzing(size: Size) -> Iterator[Figure]:
    """Examples a second, and the shares of the loss and its backward, the leaves, the reading and all the rest."""
    if size.device.type == "cpu":
        keep_freed_memory()  # as the command does
    name, model = _model(size)
    adapter = adapter_for(model)
    spent = dict.fromkeys(("forward and loss", "backward", "leaves", "reading"), 0.0)

    def timed(part: str, function):
        def run(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - begin

        return run

    from probes.witness import head_call, stand_in

    contract = Contract(model, adapter, timed("forward and loss", default_loss(adapter, "evidence")))
    fuzz(contract, examples=2, seed=0)
    spent.update(dict.fromkeys(spent, 0.0))
    with (
        patch.object(stand_in, "tiled", timed("leaves", stand_in.tiled)),
        patch.object(head_call, "read", timed("reading", head_call.read)),
        patch.object(torch.autograd, "grad", timed("backward", torch.autograd.grad)),
    ):
        begin = time.perf_counter()
        examples, found = fuzz(contract, examples=size.pick(4, 100, 400), seed=0)
        total = time.perf_counter() - begin
    assert not found, found
    spent["forward and loss"] -= spent["leaves"]  # made inside the forward
    yield Figure("fuzz", "examples", name, examples / total, "a second")
    for part, taken in (*spent.items(), ("drawing, streams, comparison", total - sum(spent.values()))):
        yield Figure("fuzz", f"share of {part}", name, taken / total)
