"""One batch on every rank: what a loss does with it must be the same on all, to the weight.

On shards of their own, ranks differ for good reasons: other samples, other counts, faults in one shard's data. On one
batch whatever differs is the code, or what it runs on: nothing that a trainer does rightly is reported.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..checks.reduction import counted_loss
from ..checks.reported import stream_summary
from ..errors import ending
from ..host.preserve import same_random_state
from ..models import Adapter, Batch
from ..records.report import told_offset
from ..records.rounding import agree
from ..witness.witness import Options, witness
from .exchange import told_ranks

__all__ = ["BASIS", "rank_findings", "seed_all", "watched"]

BASIS = "the ranks against each other"
NUMBERS = ("supervised", "missing", "unexpected", "unreadable", "offsets")
SHOWN = 3


def watched(
    model: nn.Module,
    adapter: Adapter,
    make_batch: Callable[[], Batch],
    loss: Callable[..., Tensor],
    options: Options,
    seed: int,
) -> dict[str, Any]:
    """What the loss does with the batch, as JSON values: per stream what is trained and how it weighs, codes.

    An exception that it raises is a result like any other.
    """
    with same_random_state(model):
        seed_all(seed)
        try:
            batch = make_batch()
            seen = witness(model, adapter, batch, counted_loss(loss, model, adapter, batch, options), options)
        except Exception as error:  # noqa: BLE001 - the user's loss may raise anything
            return {"raised": ending(error)[0], "streams": {}, "codes": []}
    codes = sorted({f"{found.code} on {found.stream}" for found in seen.findings})
    return {"raised": "", "streams": stream_summary(seen), "codes": codes}


def seed_all(seed: int) -> None:
    """Seed what a loss may draw from: trainers seed each rank otherwise, for good reasons."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def rank_findings(results: Sequence[Mapping[str, Any]], dtype: str) -> list[Finding]:
    """LA603 where the results of ``watched``, one per rank, are not all the same."""
    groups: list[list[int]] = []
    for rank, result in enumerate(results):
        mine = next((group for group in groups if not _difference(result, results[group[0]], dtype)), None)
        if mine is None:
            groups.append([rank])
        else:
            mine.append(rank)
    if len(groups) == 1:
        return []
    most = max(len(group) for group in groups)
    # where no majority tells which is the odd one, those without a finding are taken for right
    usual = min((g for g in groups if len(g) == most), key=lambda g: len(results[g[0]]["codes"]))
    odd = [group for group in groups if group is not usual]
    told = [
        f"{told_ranks(group)} {'differs' if len(group) == 1 else 'differ'} from {told_ranks(usual)}: "
        f"{_difference(results[group[0]], results[usual[0]], dtype)}"
        for group in odd[:SHOWN]
    ]
    more = f"; {len(odd) - SHOWN} more ways to differ" if len(odd) > SHOWN else ""
    message = f"on one and the same batch {'; '.join(told)}{more}"
    return [finding("LA603", "all", message, count=sum(map(len, odd)), basis=BASIS)]


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], dtype: str) -> str:
    """What the first rank does otherwise than the second, in words; empty if nothing."""
    if bool(one["raised"]) != bool(other["raised"]):
        mine, theirs = (f"raises {text!r}" if text else "runs" for text in (one["raised"], other["raised"]))
        return f"the loss {mine}, there it {theirs}"
    for name in dict.fromkeys([*one["streams"], *other["streams"]]):
        mine, theirs = one["streams"].get(name), other["streams"].get(name)
        if mine is None or theirs is None:
            return f"{name} is {'no stream' if mine is None else 'a stream'}, there it is not so"
        if mine.get("offsets") != theirs.get("offsets"):
            return f"{name} is trained at offsets {_offsets(mine)}, there at {_offsets(theirs)}"
        for key in NUMBERS:
            if mine.get(key) != theirs.get(key):
                return f"{mine.get(key)} rows of {name} are {key}, there {theirs.get(key)}"
        weights = [float(part.get("weight_sum", 0.0)) for part in (mine, theirs)]
        alike = agree(*weights, terms=int(mine.get("supervised", 0)), dtype=dtype)
        if not alike and str(weights[0]) != str(weights[1]):  # NaN on both is a finding of its own, on both
            return f"the weights of {name} add up to {weights[0]:.4g}, there to {weights[1]:.4g}: another normaliser"
    if one["codes"] != other["codes"]:
        mine, theirs = (", ".join(part["codes"]) or "nothing" for part in (one, other))
        return f"{mine} is found, there {theirs}"
    return ""


def _offsets(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(told_offset(key, count) for key, count in entry.get("offsets", {}).items()) + "}"
