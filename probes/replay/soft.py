"""Soft targets by replay: at unchanged logits, a row's gradient moves with the last token that its teacher has read.

Labels stay as they are, so that what a hard loss trains stays too. The first row whose gradient moves with a cut is
the one that the teacher's row at the cut is paired with: offset = cut - row + 1, which is 1 where both are one row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alignment.findings import Finding, finding

from .calls import Call
from .cuts import Place, Places

__all__ = ["SOFT", "drifts", "names_many", "soft_finding", "soft_findings"]

SOFT = "soft targets against the rows of their teacher"
#: Share of a change that two tokens (the old target and the new) and another weight must leave unexplained.
UNEXPLAINED = 0.02
#: The same of a gradient that one token and a weight must leave unexplained, of the few rows that are looked at.
UNEXPLAINED_ONCE = 1e-3
LOOKED = 16
#: Roundings of a row's largest gradient that are no movement.
ROUNDINGS = 8
#: How many cuts must agree.
AGREED = 2
SHOWN = "at unchanged logits, a row's gradient moves with what that row of the teacher has read"
FIXES = {
    "LA102": "Pair each student row with the teacher's row of the same position: cut both alike (`[:, :-1]`).",
    "LA103": "The teacher's logits are shifted once too often: cut them as the student's (`[:, :-1]`), not as labels.",
}


def names_many(base: Call, rows: Tensor) -> bool:
    """Whether any of a few of these rows (r,) of a call is pulled towards several tokens, as by a teacher.

    A hard target beside it leaves no second coordinate of its sign, and a rest that one token and its weight do not
    explain. Smoothing has such a rest too. A penalty's, on tokens of the context, pushes a few away: that of a teacher
    pulls further than it pushes.
    """
    if base.gradient is None or not len(rows):
        return False
    few = rows[:: -(-len(rows) // LOOKED)]
    gradient, logits = base.gradient[few], base.values[few]
    several = bool(((gradient < -_rounding(gradient)).sum(-1) > 1).any())
    size = gradient.double().abs().sum(-1)
    least = max(UNEXPLAINED_ONCE, 4 * torch.finfo(gradient.dtype).eps)
    rest = _rest(gradient, logits, 1)
    return several or bool(((rest.abs().sum(-1) > least * size) & (rest.pow(3).sum(-1) < 0)).any())


def drifts(base: Call, other: Call) -> Tensor:
    """(r,) bool: rows whose gradient moves otherwise than by another hard target or weight."""
    before, after = base.gradient, other.gradient
    if before is None or after is None:
        return torch.zeros(len(base.values), dtype=torch.bool, device=base.values.device)
    change = (after - before).double()
    moved = change.abs().amax(-1) > torch.maximum(_rounding(before), _rounding(after))[:, 0]
    if not bool(moved.any()):
        return moved
    rows = change[moved]
    unexplained = _rest(rows, base.values[moved], 2).abs().sum(-1)
    moved[moved.clone()] = unexplained > UNEXPLAINED * rows.abs().sum(-1)
    return moved


def _rest(rows: Tensor, logits: Tensor, tokens: int) -> Tensor:
    """(r, V): what so many hard targets, and a weight of the chances, leave of rows of a gradient."""
    rows = rows.double()
    rest = torch.ones_like(rows).scatter(-1, rows.abs().topk(min(tokens, rows.shape[-1]), -1).indices, 0.0)
    chances, rows = logits.double().softmax(-1) * rest, rows * rest
    weight = (rows * chances).sum(-1, keepdim=True) / chances.square().sum(-1, keepdim=True).clamp(min=1e-300)
    return rows - weight * chances


def _rounding(gradient: Tensor) -> Tensor:
    """(r, 1): what rounding may do to a row of a gradient."""
    return ROUNDINGS * torch.finfo(gradient.dtype).eps * gradient.abs().amax(-1, keepdim=True)


def soft_findings(
    places: Places, rounds: Sequence[Sequence[Place]], drifting: Callable[[Sequence[Place]], list[Tensor]]
) -> tuple[list[Finding], list[str]]:
    """LA102, LA103 or LA104 of streams whose soft targets stand at one other offset; a note where they stand right.

    Args:
        places: of the rows.
        rounds: cuts of one run each.
        drifting: rows per stream whose gradient moves with these cuts.
    """
    seen: list[Counter[int]] = [Counter() for _ in places.view.streams]
    for cuts in rounds:
        for number, moved in enumerate(drifting(cuts)):
            seen[number].update(offset for cut in cuts if (offset := _offset(places, number, cut, moved)) is not None)
    found, notes = [], []
    for number, offsets in enumerate(seen):
        if len(offsets) != 1 or offsets.total() < AGREED:
            continue
        name, (offset,) = places.view.streams[number].name, offsets
        if offset == 1:
            notes.append(f"{name}: soft targets stand at offset +1 ({offsets.total()} cuts, by replay)")
        else:
            found.append(soft_finding(name, offset, int(places.trained[number].sum()), SHOWN))
    return found, notes


def soft_finding(name: str, offset: int, count: int, shown: str) -> Finding:
    """Soft targets of ``count`` rows of a stream that stand at another offset than 1, as it was ``shown``."""
    code = {0: "LA102", 2: "LA103"}.get(offset, "LA104")
    pairing = "one row ahead" if offset == 2 else "one row behind" if offset == 0 else f"{offset - 1:+d} rows away"
    message = f"the soft targets of {name} are those of the teacher {pairing} (offset {offset:+d}): {shown}"
    return finding(code, name, message, count=count, basis=SOFT, fix=FIXES.get(code))


def _offset(places: Places, number: int, cut: Place, moved: Tensor) -> int | None:
    """By the first row r that moves, cut - r + 1; None unless the trained row before it stands still."""
    stream, positions = places.view.streams[number], places.layout.positions[number]
    mine = places.trained[number] & (stream.sample == cut.sample) & (places.document[number] == cut.document)
    standing = {
        int(position): bool(moves)
        for position, moves in zip(positions[mine].tolist(), moved[mine].tolist(), strict=True)
    }
    first = min((position for position, moves in standing.items() if moves), default=None)
    if first is None or first - 1 not in standing:
        return None
    return cut.position - first + 1
