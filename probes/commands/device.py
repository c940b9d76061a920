"""Where a command runs, and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import CannotRunError, UsageError

if TYPE_CHECKING:
    import torch

    from ..ranks import Place

__all__ = ["pick_device", "pick_dtype"]


def pick_device(text: str, place: Place | None = None) -> torch.device:
    """The device that ``--device`` names; each rank of a launcher has one of its own.

    Raises:
        UsageError: no such kind of device, or one for several ranks.
        CannotRunError: it is not there.
    """
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UsageError(f"unknown --device {text!r}: use auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise CannotRunError(
                f"--device {text}: this torch ({torch.__version__}) sees no CUDA device; use --device cpu"
            )
        if index and int(index) >= count:
            raise UsageError(f"--device {text}: there are {count} CUDA devices, the last is cuda:{count - 1}")
        if place is not None:
            text = _own_device(text, count, place)
    else:
        from ..host.allocator import keep_freed_memory

        keep_freed_memory()
    return torch.device(text)


def _own_device(text: str, count: int, place: Place) -> str:
    """The device of one rank: that of its number on its machine, or the only one that its launcher lets it see."""
    if text != "cuda":
        if place.world > 1:
            raise UsageError(f"--device {text} is one device for {place.world} ranks: use --device cuda")
        return text
    if count > 1 and place.local >= count:
        raise UsageError(
            f"local rank {place.local}, but there are {count} CUDA devices: start at most one rank for each"
        )
    return f"cuda:{place.local if count > 1 else 0}"


def pick_dtype(name: str | None) -> Any:
    """The torch dtype of that name; None keeps the model's own."""
    import torch

    return None if name is None else getattr(torch, name)
