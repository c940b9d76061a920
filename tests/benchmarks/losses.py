"""The dual loss beside its peers: the seed's snippet, transformers' ForCausalLMLoss, torch's linear_cross_entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from measure import Figure, Size, compared, peak_bytes
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from alignment import IGNORE_INDEX, dual_loss

__all__ = ["Case", "from_hidden_states", "from_logits"]

SHARES = (0.1, 0.5, 0.94)


class Case:
    """Random hidden states, logits and labels, of which a share is valid, and every way to their loss."""

    def __init__(
        self, vocab: int, hidden: int, length: int, share: float, dtype: torch.dtype, size: Size, cell: str
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.vocab, self.cell = vocab, cell
        self.hidden = torch.randn(1, length, hidden, generator=generator).to(size.device, dtype).requires_grad_()
        self.head = torch.nn.Linear(hidden, vocab, bias=False, device=size.device, dtype=dtype)
        with torch.no_grad():
            self.logits = self.head(self.hidden)
        self.logits.requires_grad_()
        self.ids = torch.randint(vocab, (1, length), generator=generator).to(size.device)
        valid = torch.rand(1, length, generator=generator).to(size.device) < share
        self.labels = self.ids.masked_fill(~valid, IGNORE_INDEX)
        self.batch = {"input_ids": self.ids, "label_ids": self.labels}

    # -- of logits (B, T, V) -----------------------------------------------------------------------

    def dual(self, logits: Tensor) -> Tensor:
        """Ours."""
        return dual_loss({"logits": logits}, self.batch).total

    def causal(self, logits: Tensor) -> Tensor:
        """Transformers'."""
        return ForCausalLMLoss(logits, self.labels, self.vocab)

    def seed(self, logits: Tensor) -> Tensor:
        """As the seed document writes its fallback path: cut, made contiguous, in the model's own dtype."""
        shift_logits = logits[..., :-1, :].contiguous()
        shift_labels = self.labels[..., 1:].contiguous()
        return F.cross_entropy(shift_logits.view(-1, self.vocab), shift_labels.view(-1), ignore_index=IGNORE_INDEX)

    # -- of hidden states (B, T, H) ----------------------------------------------------------------

    def dual_hidden(self) -> Tensor:
        """Ours."""
        return dual_loss({}, self.batch, hidden=self.hidden, head=self.head).total

    def seed_hidden(self) -> Tensor:
        """The seed's snippet behind the head."""
        return self.seed(self.head(self.hidden))

    def linear(self) -> Tensor:
        """torch's function, on every position, as it is called without options."""
        return F.linear_cross_entropy(self.hidden[0, :-1], self.head.weight, self.labels[0, 1:])

    # -- both ways ---------------------------------------------------------------------------------

    def backward(self, loss: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        """From the logits to the loss and back."""
        return lambda: torch.autograd.grad(loss(self.logits), self.logits)

    def backward_hidden(self, loss: Callable[[], Tensor]) -> Callable[[], object]:
        """From the hidden states to the loss and back, to the head's weight as well."""
        return lambda: torch.autograd.grad(loss(), (self.hidden, self.head.weight))

    def error(self, loss: Tensor) -> float:
        """How far a loss is from its float64 truth on these logits, relative."""
        targets = self.labels[0, 1:]
        rows = torch.nonzero(targets != IGNORE_INDEX).reshape(-1)
        parts = rows.split(64)
        logits = self.logits.detach()[0]
        total = sum(float(F.cross_entropy(logits[part].double(), targets[part], reduction="sum")) for part in parts)
        truth = total / len(rows)
        return abs(float(loss.detach()) - truth) / truth


def _cases(size: Size, hidden: int, length: int, dtypes: tuple[torch.dtype, ...]) -> Iterator[Case]:
    for dtype in dtypes:
        for share in size.pick((0.5,), SHARES, SHARES):
            vocab = size.pick(1 << 10, 128256, 128256)
            cell = f"V {vocab}, T {length}, {share:.0%} valid, {str(dtype).removeprefix('torch.')}"
            if size.wants(cell):
                yield Case(vocab, hidden, length, share, dtype, size, cell)


def from_logits(size: Size) -> Iterator[Figure]:
    """Time, peak memory and error from logits, forward and backward."""
    family, length = "dual_loss from logits", size.pick(64, 512, 4096)
    for case in _cases(size, 8, length, (torch.float32, torch.bfloat16)):
        ours, causal, seed = (case.backward(loss) for loss in (case.dual, case.causal, case.seed))
        limit = None if size.name == "tiny" else 1.1  # a table of 64 rows is gone before the call is
        for name, pair in zip(("ForCausalLMLoss", "seed"), compared(ours, [causal, seed], size), strict=True):
            held = limit if name == "ForCausalLMLoss" else None
            yield Figure(family, f"time / {name}", case.cell, pair.ratio, limit=held, detail=str(pair))
        mine, theirs, seeds = (peak_bytes(run, size.device) for run in (ours, causal, seed))
        for name, other, held in (("ForCausalLMLoss", theirs, 1.1), ("seed", seeds, None)):
            detail = f"{mine / 1e6:.0f} MB / {other / 1e6:.0f} MB"
            yield Figure(family, f"peak memory / {name}", case.cell, mine / other, limit=held, detail=detail)
        for name in ("dual", "causal", "seed"):
            loss = getattr(case, name)(case.logits)
            kind = str(loss.dtype).removeprefix("torch.")
            yield Figure(
                family, f"error of {name}", case.cell, case.error(loss), detail=f"{float(loss.detach()):.6f} {kind}"
            )


def from_hidden_states(size: Size) -> Iterator[Figure]:
    """Time and peak memory from hidden states, forward and backward, to the head's weight as well."""
    family = "dual_loss from hidden states"
    hidden, length = size.pick(8, 1024, 2048), size.pick(64, 1024, 4096)
    dtypes = size.pick((torch.float32,), (torch.float32,), (torch.float32, torch.bfloat16))
    for case in _cases(size, hidden, length, dtypes):
        share = float((case.labels != IGNORE_INDEX).float().mean())
        ours, seed = case.backward_hidden(case.dual_hidden), case.backward_hidden(case.seed_hidden)
        others = {"seed": seed}
        if hasattr(F, "linear_cross_entropy"):  # torch 2.13
            others["linear_cross_entropy"] = case.backward_hidden(case.linear)
        limits = {0.1: 0.2, 0.5: 0.6} if size.name != "tiny" else {}
        for (name, run), pair in zip(others.items(), compared(ours, list(others.values()), size), strict=True):
            held = limits.get(min(SHARES, key=lambda one: abs(one - share))) if name == "seed" else None
            yield Figure(family, f"time / {name}", case.cell, pair.ratio, limit=held, detail=str(pair))
            mine, theirs = peak_bytes(ours, size.device), peak_bytes(run, size.device)
            detail = f"{mine / 1e6:.0f} MB / {theirs / 1e6:.0f} MB"
            yield Figure(family, f"peak memory / {name}", case.cell, mine / theirs, detail=detail)
