"""Weights of several ranks over a few steps: alike before them and not alike after them, nothing was reduced (LA603).

Told by a number for each parameter, and never by the wrapper: what a rank does with its gradients shows in its
weights alone. Parameters that were not alike at first are a rank's own (a shard, an expert), and are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from .exchange import told_ranks

__all__ = ["drift", "imprint", "still_alike"]

#: Columns in which a parameter is added up: what ranks have moved apart in all of them at once is not lost in a sum.
WIDTH = 1024
#: Weights moved apart by less than this part of what they have moved are alike: kernels may round otherwise.
APART = 1e-2
BASIS = "the ranks' weights"
FIX = (
    "Call the wrapper itself (`ddp(...)`, not `ddp.module(...)` or the model inside it): only its own forward has the "
    "gradients reduced. A design that averages weights every few steps does so knowingly: --ignore LA603."
)


@torch.no_grad()
def imprint(model: nn.Module) -> dict[str, float]:
    """A number for each trainable parameter that moves with it: its columns, each with a weight of its own.

    Sharded parameters have none: no rank holds them whole.
    """
    numbers: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        whole = type(parameter.data) is Tensor and parameter.device.type != "meta"
        if parameter.requires_grad and whole and parameter.numel() and parameter.is_floating_point():
            numbers[name] = _imprint(parameter.detach().reshape(-1))
    return {name: float(number) for name, number in numbers.items()}


def _imprint(flat: Tensor) -> Tensor:
    """() float64. Columns are added up in blocks: no copy of the parameter is made."""
    full = len(flat) // WIDTH * WIDTH
    columns = flat[:full].view(-1, WIDTH).sum(0, dtype=torch.float64)
    columns[: len(flat) - full] += flat[full:]
    return (columns * torch.arange(1, WIDTH + 1, device=flat.device, dtype=torch.float64).sin()).sum()


def drift(payloads: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """LA603 where parameters were alike on all ranks before the watched steps, and have moved apart in them.

    A warning where others have stayed together: each rank may hold parameters of its own that began alike.
    """
    compared, apart = _compared(payloads)
    if not apart:
        return []
    odd = [number for number in range(1, len(payloads)) if any(number in ranks for ranks in apart.values())]
    told = told_ranks([payloads[number]["rank"] for number in (0, *odd)])
    whole = len(apart) == len(compared)
    message = (
        f"{len(apart)} of {len(compared)} trained parameters, first {next(iter(apart))}, were the same on {told} "
        "before a watched step and are not after it: their gradients were not reduced"
        f"{'' if whole else ', or they are parameters of each rank alone (experts)'}"
    )
    severity = "error" if whole else "warning"
    return [finding("LA603", "all", message, fix=FIX, count=len(apart), basis=BASIS, severity=severity)]


def still_alike(payloads: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there was something to compare, and none of it has moved apart."""
    compared, apart = _compared(payloads)
    return bool(compared) and not apart


def _compared(payloads: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the parameters that began alike and have moved; those that moved apart, with the payloads' numbers."""
    imprints = [payload.get("imprints") or [] for payload in payloads]
    if len(payloads) < 2 or any(len(one) < 2 for one in imprints):
        return [], {}
    before, after = [one[0] for one in imprints], [one[-1] for one in imprints]
    compared, apart = [], {}
    for name, start in before[0].items():
        starts, ends = [one.get(name) for one in before], [one.get(name) for one in after]
        if any(one != start for one in starts) or None in ends:
            continue
        moved = max(abs(end - start) for end in ends)
        if not moved > 0:
            continue
        compared.append(name)
        ranks = [number for number, end in enumerate(ends) if not abs(end - ends[0]) <= APART * moved]
        if ranks:
            apart[name] = ranks
    return compared, apart
