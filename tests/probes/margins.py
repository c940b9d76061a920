"""Margins of what tells a target from none: how far right and other losses lie from each threshold.

``python tests/probes/margins.py`` prints, per dtype that a loss is computed in and per vocabulary, the largest
residual of losses with one target in a row and the smallest of those with none (``docs/random-losses.md``).
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from alignment.noise import NOISE_ROWS, leaf
from alignment.recovery import _fit, recover

__all__ = ["DTYPES", "HARD", "SOFT", "VOCABULARIES", "measured", "rivals"]

ROWS = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VOCABULARIES = (12, 128, 1024, 32000, 128256)


def _labels(vocab: int) -> Tensor:
    return torch.randint(0, vocab, (ROWS,), generator=torch.Generator().manual_seed(1))


def _teacher(vocab: int, peak: float) -> Tensor:
    """(V,) a teacher with ``peak`` of its probability on one token, a third of the rest on another."""
    rest = torch.full((vocab,), (1 - peak) * 2 / 3 / (vocab - 2))
    rest[0], rest[1] = peak, (1 - peak) / 3
    return rest


def _focal(losses: Tensor) -> Tensor:
    return (losses * (1 - (-losses).exp()) ** 2).mean()


#: Losses with one target in a row.
HARD = {
    "cross-entropy": F.cross_entropy,
    "smoothed by 0.1": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "focal": lambda z, y: _focal(F.cross_entropy(z, y, reduction="none")),
    "z-loss of 1e-4": lambda z, y: F.cross_entropy(z, y) + 1e-4 * z.logsumexp(-1).square().mean(),
    "L2 of 1e-5": lambda z, y: F.cross_entropy(z, y) + 1e-5 * z.square().sum(-1).mean(),
}
#: Losses with none.
SOFT = {
    "a teacher, at most 0.5": lambda z, _: -(_teacher(z.shape[-1], 0.5).to(z) * z.log_softmax(-1)).sum(-1).mean(),
    "a teacher, at most 0.7": lambda z, _: -(_teacher(z.shape[-1], 0.7).to(z) * z.log_softmax(-1)).sum(-1).mean(),
    "two targets": lambda z, y: (F.cross_entropy(z, y) + F.cross_entropy(z, (y + 1) % z.shape[-1])) / 2,
    "squares": lambda z, _: (z - torch.linspace(-1, 1, z.shape[-1]).to(z)).square().sum(-1).mean(),
}


def measured(name: str, vocab: int, dtype: torch.dtype) -> Tensor:
    """(R,) the residual of every row of a loss at noise, that is computed in ``dtype``."""
    labels, loss = _labels(vocab), {**HARD, **SOFT}[name]
    return recover(lambda z: loss(z.to(dtype), labels), torch.zeros(ROWS, vocab)).residual


def rivals(name: str, vocab: int, dtype: torch.dtype) -> Tensor:
    """(R,) how strongly a second token is pulled, in units of the row's largest entry."""
    labels, loss = _labels(vocab), {**HARD, **SOFT}[name]
    stand_in = leaf(torch.zeros(ROWS, vocab), rows=NOISE_ROWS)
    (grad,) = torch.autograd.grad(loss(stand_in.to(dtype), labels), stand_in)
    grad = grad / grad.abs().amax(-1, keepdim=True)
    return _fit(grad, stand_in.detach().softmax(-1), grad.argmin(-1))[2]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocabulary", type=int, nargs="*", default=VOCABULARIES, metavar="V")
    chosen = parser.parse_args()
    print("| dtype | vocabulary | one target: residual at most | rival at most | none: at least | at least |")
    print("|---|---|---|---|---|---|")
    for kind, dtype in DTYPES.items():
        for vocab in chosen.vocabulary:
            hard = [float(measured(name, vocab, dtype).max()) for name in HARD]
            soft = [float(measured(name, vocab, dtype).min()) for name in SOFT]
            pulled = [float(rivals(name, vocab, dtype).max()) for name in HARD]
            apart = [float(rivals(name, vocab, dtype).min()) for name in SOFT]
            cells = (max(hard), max(pulled), min(soft), min(apart))
            print(f"| {kind} | {vocab} | " + " | ".join(f"{cell:.2g}" for cell in cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
