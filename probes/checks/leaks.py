"""What a row saw that it must not: its own target, a later input, or another sample of the batch (LA401)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alignment import Finding
from alignment.findings import finding

from ..models.adapter import Layout
from ..replay.perturbation import SAME_ORDER, Movement
from ..witness.witness import Witness
from .cuts import Causality

__all__ = ["judge"]

BASIS = "logits against later inputs"
APART = (
    "Keep the samples of a batch apart: one attention mask for each (a flattened batch needs `cu_seqlens` or a "
    "block-diagonal mask), and no statistics over the batch dimension."
)
#: Rows that move when everything from these cuts on is replaced, per stream.
Moving = Callable[[dict[tuple[int, int], str]], list[Tensor]]


def judge(
    told: Causality, seen: Witness, layout: Layout, leaks: Sequence[Tensor], movement: Movement, moving: Moving
) -> None:
    """Add one finding per modality whose trained rows leak; rows that are not trained may, as a prefix does.

    Args:
        told: what the cuts showed.
        seen: which rows are trained.
        layout: where they stand in their samples.
        leaks: per stream and row, how far ahead an input lies that moves it; 0 for none.
        movement: what rounding explains.
        moving: cuts again.
    """
    for kind in ("text", "audio"):
        mine = [n for n, s in enumerate(seen.view.streams) if s.is_audio == (kind == "audio")]
        trained = {n: leaks[n] * seen.trained(n) for n in mine}
        count = sum(int((ahead > 0).sum()) for ahead in trained.values())
        others = sum(int((leaks[n] > 0).sum()) for n in mine) - count
        if others:
            told.notes.append(f"causality: {others} {kind} rows that are not trained see later inputs (a prefix?)")
        if count:
            limit = movement.allowed(kind, SAME_ORDER)
            told.findings.append(_finding(kind, count, trained, told, seen, layout, limit, moving))


def _finding(
    kind: str,
    count: int,
    trained: dict[int, Tensor],
    told: Causality,
    seen: Witness,
    layout: Layout,
    limit: float,
    moving: Moving,
) -> Finding:
    number, ahead = next((n, a) for n, a in trained.items() if bool((a > 0).any()))
    stream, row = seen.view.streams[number], int(torch.nonzero(ahead > 0)[0])
    sample = int(stream.sample[row])
    reach = max(int(a.max()) for a in trained.values())
    where = f"{stream.name} sample {sample} row {int(stream.row[row])} first"
    later = f"inputs after them are replaced, up to {reach} position{'' if reach == 1 else 's'} ahead"
    rows = {n: (ahead > 0) & (seen.view.streams[n].sample == sample) for n, ahead in trained.items()}
    beside = _moved_by_others(told, rows, sample, moving)
    if not beside:
        message = f"{count} trained rows move when only {later}: {where}"
    elif _moved_by_itself(told, layout, rows, sample, moving):
        message = f"{count} trained rows move when other samples of the batch or {later}: {where}"
    else:
        message = f"{count} trained rows move when only other samples of the batch are replaced: {where}"
    message += f"; rounding moves a logit by {limit:.1e} at most"
    padding = sum(int(((a > 0) & (seen.view.streams[n].segment < 0)).sum()) for n, a in trained.items())
    if padding:
        message += f"; {padding} of them are padding, which sees whatever follows it"
    return finding("LA401", kind, message, count=count, basis=BASIS, fix=APART if beside else None)


def _moved_by_others(told: Causality, rows: dict[int, Tensor], sample: int, moving: Moving) -> bool:
    """Whether rows that leak move when all samples but theirs are replaced."""
    first = {run.sample: run.first for run in reversed(told.runs) if run.sample != sample}
    if not first:
        return False
    moved = moving(dict.fromkeys(first.items(), ""))
    return any(bool((moved[n] & mine).any()) for n, mine in rows.items())


def _moved_by_itself(told: Causality, layout: Layout, rows: dict[int, Tensor], sample: int, moving: Moving) -> bool:
    """Whether rows that leak still move when their sample alone is cut."""
    for cut in told.cuts:
        if cut.sample == sample:
            moved = moving({(sample, cut.position): cut.what})
            if any(bool((moved[n] & mine & (layout.positions[n] < cut.position)).any()) for n, mine in rows.items()):
                return True
    return False
