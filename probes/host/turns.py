"""One check at a time on one model: whatever stands around its forwards belongs to one thread."""

from __future__ import annotations

import threading

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .walk import first_parameter

__all__ = ["turn"]

_LOCKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
_LOOKING = threading.Lock()


def turn(model: nn.Module) -> threading.RLock:
    """What a thread holds while it checks ``model``, or another module around the same parameters."""
    owner = first_parameter(model)
    with _LOOKING:
        return _LOCKS.setdefault(model if owner is None else owner, threading.RLock())
