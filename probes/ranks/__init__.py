"""Several ranks as one run: how they exchange what they found, keep step, and end together."""

from __future__ import annotations

from .exchange import MissingRanksError, RankExchange, told_ranks

__all__ = ["MissingRanksError", "RankExchange", "told_ranks"]
