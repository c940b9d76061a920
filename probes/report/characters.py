"""Characters that neither XML nor HTML can hold, not even as references."""

from __future__ import annotations

import re

__all__ = ["held"]

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def held(text: str) -> str:
    """``text`` with a replacement character for each of them."""
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
