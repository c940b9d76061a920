"""Probes: real models, real batches, real losses. Names are loaded on first use (PEP 562)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches.barcoded import barcoded_batch
    from .checks.check import check_loss
    from .errors import CannotRunError, UsageError
    from .finder.discover import discover
    from .live.lightning_callback import LightningAlignmentCallback
    from .live.trainer_callback import AlignmentCallback
    from .models.registry import register
    from .models.small import small_model
    from .report import Report
    from .sweep.run import check_data

#: Tells our package from any other that is called ``probes``.
__distribution__ = "loss-alignment"

_HOME = {
    "AlignmentCallback": "live.trainer_callback",
    "CannotRunError": "errors",
    "LightningAlignmentCallback": "live.lightning_callback",
    "Report": "records.report",
    "UsageError": "errors",
    "barcoded_batch": "batches.barcoded",
    "check_data": "sweep.run",
    "check_loss": "checks.check",
    "discover": "finder.discover",
    "register": "models.registry",
    "small_model": "models.small",
}

__all__ = [
    "AlignmentCallback",
    "CannotRunError",
    "LightningAlignmentCallback",
    "Report",
    "UsageError",
    "barcoded_batch",
    "check_data",
    "check_loss",
    "discover",
    "register",
    "small_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _check_engine()
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def _check_engine() -> None:
    """Raise where another distribution's package is called as ours, before its code is asked for our names."""
    engine = importlib.import_module("alignment")
    if getattr(engine, "__distribution__", None) != __distribution__:
        raise ImportError(
            f"package 'alignment' was imported from {getattr(engine, '__file__', None)}, which does not belong to "
            f"{__distribution__}: loss-align env says what to do"
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
