"""Memory: refuse what cannot fit before anything large is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import CannotRunError

__all__ = ["check_memory", "check_weights"]

#: Logits-sized buffers alive at once in a training step: logits, their float32 copy, log-softmax, two gradients.
BUFFERS = 5
GIB = 1 << 30


def check_memory(rows: int, elements: int, device: torch.device) -> None:
    """Refuse a batch whose logits cannot fit into what is free.

    Args:
        rows: positions of the batch.
        elements: logits of all streams together.
        device: where they would lie.

    Raises:
        CannotRunError: with both figures in GiB.
    """
    needed = BUFFERS * 4 * elements
    free = _free(device)
    if free is not None and needed > free:
        raise CannotRunError(
            f"the logits of {rows} rows take about {needed / GIB:.1f} GiB in a training step, {free / GIB:.1f} GiB are "
            f"free on {device}: use a smaller --batch-size or --length, or fewer rows in a batch of your own"
        )


def check_weights(folder: Path, device: torch.device) -> None:
    """Refuse a checkpoint whose weights cannot fit into what is free, before any of them is read.

    Raises:
        CannotRunError: with both figures in GiB.
    """
    needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = _free(device)
    if free is not None and needed > free:
        raise CannotRunError(
            f"the weights in {folder} take {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free on {device}: name a "
            "smaller checkpoint (one of fewer layers shows the same alignment), or a --device that holds it"
        )


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_AVPHYS_PAGES" not in names:
        return None  # this system does not say
    # pages that the system uses as cache count as taken here, though they can be freed: allow for half of all
    page = os.sysconf("SC_PAGE_SIZE")
    return int(max(os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PHYS_PAGES") // 2) * page)
