"""Losses that never hold all logits: what watching them takes beyond their own memory, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measure import Figure, Size, peak_bytes
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

__all__ = ["LOSSES", "Chunks", "chunks"]

#: Rows of logits that such a loss holds at once.
CHUNK = 64
#: A batch that nobody can hold the logits of: 128 GB of them.
ROWS, VOCABULARY = 131072, 262144


def _sum(head: torch.nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(head(hidden).float(), labels, reduction="sum")


def _rows(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], by: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden rows, and the label of each ``by`` positions on."""
    hidden, labels = model.model(input_ids=batch["input_ids"]).last_hidden_state, batch["labels"]
    return hidden[:, : labels.shape[1] - by].flatten(0, 1), labels[:, by:].flatten()


def chunked(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], by: int = 1) -> torch.Tensor:
    """The head called chunk by chunk, each computed again in the backward."""
    hidden, labels = _rows(model, batch, by)
    parts = zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)
    sums = [checkpoint(_sum, model.lm_head, *part, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum() / (labels >= 0).sum()


class _Fused(torch.autograd.Function):
    """Cross-entropy of hidden rows whose gradient is made in the forward, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        grad, loss = torch.empty_like(hidden), hidden.new_zeros(())
        for first in range(0, len(hidden), CHUNK):
            part = slice(first, first + CHUNK)
            log = torch.log_softmax(hidden[part] @ weight.T, -1)
            at = torch.arange(len(log), device=log.device), labels[part]
            loss -= log[at].sum()
            log.exp_()[at] -= 1
            grad[part] = log @ weight
        ctx.save_for_backward(grad.div_(len(hidden)))
        return loss / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


def fused(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], by: int = 1) -> torch.Tensor:
    """No logits at all."""
    hidden, labels = _rows(model, batch, by)
    return _Fused.apply(hidden, model.lm_head.weight, labels)


#: Right ones, and such as train each row on its own token.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "chunked": chunked,
    "fused": fused,
    "chunked, wrong": partial(chunked, by=0),
    "fused, wrong": partial(fused, by=0),
}


class Chunks:
    """A Llama of one small layer, and one of these losses on ``rows`` tokens of samples of 64."""

    def __init__(self, vocab: int, rows: int, name: str, device: torch.device) -> None:
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes)).to(device)
        ids = torch.randint(3, vocab, (rows // 64, 64)).to(device)
        self.batch = {"input_ids": ids, "labels": ids.clone()}
        self.loss, self.device = LOSSES[name], device
        self.codes = ["LA102"] if name.endswith("wrong") else []

    def extra(self) -> int:
        """Bytes that a check needs beyond what a training step of the loss needs."""
        return peak_bytes(self._check, self.device) - peak_bytes(self._step, self.device)

    def _check(self) -> None:
        found = check_loss(self.model, self.batch, self.loss, replay=False).findings
        assert [one.code for one in found] == self.codes
        assert all(one.lines for one in found), [one.origin for one in found]

    def _step(self) -> None:
        self.loss(self.model, self.batch).backward()
        self.model.zero_grad(set_to_none=True)


def chunks(size: Size) -> Iterator[Figure]:
    """Extra memory at a few row counts, and what a straight line through the last two says of 131,072 rows."""
    vocab = size.pick(1 << 14, VOCABULARY, VOCABULARY)
    few, many = size.pick((64, 256), (512, 1024), (16384, 32768))
    for name in LOSSES:
        cell = f"V {vocab}, {name}"
        if not size.wants(cell):
            continue
        less, more = (Chunks(vocab, rows, name, size.device).extra() for rows in (few, many))
        a_row = max(more - less, 0) / (many - few)
        expected = more + a_row * (ROWS - many)
        detail = f"{few} rows: {less / 1e6:.0f} MB, {many}: {more / 1e6:.0f} MB"
        share, most = (None, None) if size.name == "tiny" else (0.05, 2.0)  # the tiny size is all start-up
        yield Figure("chunks", "bytes a row / a row of logits", cell, a_row / (4 * vocab), limit=share, detail=detail)
        yield Figure("chunks", f"beyond the loss's own at {ROWS} rows", cell, expected / 1e9, "GB", most, detail)
