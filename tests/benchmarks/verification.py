"""A verification pass beside its floor: one forward without gradients, the loss, and its backward to the logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Figure, Size, compared, peak_bytes
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

from alignment.noise import NOISE_ROWS, leaf
from alignment.recovery import read
from probes import check_loss

__all__ = ["Setting", "decoding", "verification"]

FAMILY = "verification pass"
LAYERS = 2


class Setting:
    """A Llama of two layers, one sample or more whose first sixteenth is a prompt, and its own loss."""

    def __init__(
        self, vocab: int, hidden: int, length: int, dtype: torch.dtype, device: torch.device, samples: int = 1
    ) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=length,
        )
        self.model = LlamaForCausalLM(config).to(device, dtype).train()
        ids = torch.randint(3, vocab, (samples, length)).to(device)
        labels = ids.clone()
        labels[:, : length // 16] = -100
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        self.inputs = {key: value for key, value in self.batch.items() if key != "labels"}

    @staticmethod
    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is checked: the model's own loss."""
        return model(**batch).loss

    def ours(self) -> None:
        """The pass."""
        report = check_loss(self.model, self.batch, self.loss, replay=False)
        assert report.verdict == "pass", report

    def floor(self) -> None:
        """What anybody would write: the logits, then the loss on them and back to them."""
        with torch.no_grad():
            logits = self.model(**self.inputs).logits
        self._to_the_logits(logits.requires_grad_())

    def bare(self) -> None:
        """Less than any pass can do: the head left out, and noise for its logits that costs nothing but its bytes."""
        with torch.no_grad():
            hidden = self.model.model(**self.inputs).last_hidden_state
        logits = hidden.new_empty(*hidden.shape[:-1], self.model.config.vocab_size, dtype=torch.float32)
        self._to_the_logits(logits.fill_(0.01).requires_grad_())

    def training(self) -> None:
        """Forward, loss and backward through the model."""
        self.loss(self.model, self.batch).backward()
        self.model.zero_grad(set_to_none=True)

    def _to_the_logits(self, logits: torch.Tensor) -> None:
        loss = ForCausalLMLoss(logits, self.batch["labels"], self.model.config.vocab_size)
        torch.autograd.grad(loss, logits)


def verification(size: Size) -> Iterator[Figure]:
    """Time and peak memory of ``check_loss`` against its floor and against a training step."""
    vocab = size.pick(1 << 14, 128256, 128256)
    cells = size.pick(
        [(64, 64)],
        [(256, 256), (256, 2048), (1024, 256), (1024, 1024), (1024, 2048)],
        [(hidden, length) for hidden in (256, 1024) for length in (256, 1024, 2048)],
    )
    for hidden, length in cells:
        for dtype in size.pick([torch.float32], [torch.float32, torch.bfloat16], [torch.float32, torch.bfloat16]):
            cell = f"V {vocab}, H {hidden}, T {length}, {str(dtype).removeprefix('torch.')}"
            if not size.wants(cell):
                continue
            setting = Setting(vocab, hidden, length, dtype, size.device)
            held = size.name != "tiny" and hidden == 1024 and length >= 1024 and dtype == torch.float32
            floor, bare, step = compared(setting.ours, [setting.floor, setting.bare, setting.training], size)
            limits = (1.15, None, 0.7) if held else (None,) * 3
            names = ("time / its floor", "time / floor without the head's product", "time / training step")
            for name, pair, limit in zip(names, (floor, bare, step), limits, strict=True):
                yield Figure(FAMILY, name, cell, pair.ratio, limit=limit, detail=str(pair))
            ours, other = (peak_bytes(run, size.device) for run in (setting.ours, setting.floor))
            detail = f"{ours / 1e6:.0f} MB / {other / 1e6:.0f} MB"
            yield Figure(FAMILY, "peak memory / its floor", cell, ours / other, limit=1.05, detail=detail)


def decoding(size: Size) -> Iterator[Figure]:
    """Extra memory of reading a gradient, as a share of the logits: at a glance, and every row in full."""
    vocab = size.pick(1 << 15, 128256, 128256)
    for length in size.pick([256], [256, 1024], [256, 2048, 16384]):
        if not size.wants(f"V {vocab}, T {length}"):
            continue
        logits = leaf(torch.zeros(1, 1, device=size.device).expand(length, vocab))
        labels = torch.randint(vocab, (length,), device=size.device)
        (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)
        logits = logits.detach()
        for name, period in (("at a glance", NOISE_ROWS), ("in full", None)):
            extra = peak_bytes(lambda: read(grad, logits, period=period), size.device)  # noqa: B023 - run at once
            share = extra / (logits.numel() * logits.element_size())
            cell = f"V {vocab}, T {length}, {name}"
            yield Figure("decoding rows", "extra memory / logits", cell, share, limit=0.05)
