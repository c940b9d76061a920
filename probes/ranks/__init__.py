"""Several ranks as one run: how they exchange what they found, keep step, and end together."""

from __future__ import annotations

from ..host.place import ALONE, Place
from .exchange import MissingRanksError, RankExchange, told_ranks

__all__ = ["ALONE", "MissingRanksError", "Place", "RankExchange", "told_ranks"]
