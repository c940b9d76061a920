"""The ranks of a distributed run as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .markup import section, table

__all__ = ["rank_rows", "ranks_table"]

#: Most ranks that are shown one by one.
SHOWN = 16
HINT = (
    "Each on its own shard. What a target weighs in the step, where the mean of their gradients is taken, is relative "
    "to its weight over all ranks."
)


def rank_rows(ranks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The header and a row per rank; of many, those that found something come first. Empty for a single process."""
    if len(ranks) < 2:
        return []
    every = dict.fromkeys(kind for rank in ranks for kind in rank["targets"])
    kinds = [kind for kind in every if any(rank["targets"].get(kind) for rank in ranks)]
    header = ["rank", "device", "verdict", "found"]
    for kind in kinds:
        header += [f"{kind} targets", "weights", "each weighs"]
    chosen = sorted(ranks, key=lambda rank: not rank["codes"]) if len(ranks) > SHOWN else list(ranks)
    rows = [_row(rank, kinds) for rank in chosen[:SHOWN]]
    if len(ranks) > SHOWN:
        rows.append([f"{len(ranks) - SHOWN} more", *[""] * (len(header) - 1)])
    return [header, *rows]


def _row(rank: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    row = [str(rank["rank"]), f"{rank['host']} {rank['device']}", rank["verdict"], ", ".join(rank["codes"]) or "-"]
    for kind in kinds:
        share = rank["token_weight"].get(kind)
        row += [str(rank["targets"].get(kind, 0)), f"{rank['weight_sum'].get(kind, 0.0):.4g}"]
        row.append("-" if share is None else f"{share:.3f}")
    return row


def ranks_table(ranks: Sequence[Mapping[str, Any]]) -> str:
    """The section of a page; empty for a single process."""
    if not (rows := rank_rows(ranks)):
        return ""
    lines = (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return section("ranks", "Ranks", table(rows[0], lines), HINT)
