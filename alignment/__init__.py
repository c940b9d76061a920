"""Loss alignment: which token is each logit trained to predict, and with what weight?

The engine is pure torch. Names are loaded on first use (PEP 562), so that the finding
catalogue and the errors cost no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare
    from .delay_pattern import delay, undelay
    from .errors import AlignmentError, InputError
    from .expansion import Expansion, expand
    from .findings import Finding
    from .labels import Convention, Evidence, infer_convention
    from .loss import DualLoss, dual_loss
    from .pairing import Decision, Pairing, choose, pair
    from .recovery import Reading, read, recover
    from .rules import RULES, Rule
    from .streams import IGNORE_INDEX, Stream, audio_streams, text_stream
    from .supervision import Supervision, expect

__version__ = "0.2.0"

#: Tells our package from any other that is called ``alignment``.
__distribution__ = "loss-alignment"

_HOME = {
    "AlignmentError": "errors",
    "Convention": "labels",
    "Decision": "pairing",
    "DualLoss": "loss",
    "Evidence": "labels",
    "Expansion": "expansion",
    "Finding": "findings",
    "IGNORE_INDEX": "streams",
    "InputError": "errors",
    "Pairing": "pairing",
    "RULES": "rules",
    "Reading": "recovery",
    "Rule": "rules",
    "Stream": "streams",
    "Supervision": "supervision",
    "audio_streams": "streams",
    "choose": "pairing",
    "compare": "comparison",
    "delay": "delay_pattern",
    "dual_loss": "loss",
    "expand": "expansion",
    "expect": "supervision",
    "infer_convention": "labels",
    "pair": "pairing",
    "read": "recovery",
    "recover": "recovery",
    "text_stream": "streams",
    "undelay": "delay_pattern",
}

__all__ = [
    "IGNORE_INDEX",
    "RULES",
    "AlignmentError",
    "Convention",
    "Decision",
    "DualLoss",
    "Evidence",
    "Expansion",
    "Finding",
    "InputError",
    "Pairing",
    "Reading",
    "Rule",
    "Stream",
    "Supervision",
    "audio_streams",
    "choose",
    "compare",
    "delay",
    "dual_loss",
    "expand",
    "expect",
    "infer_convention",
    "pair",
    "read",
    "recover",
    "text_stream",
    "undelay",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
