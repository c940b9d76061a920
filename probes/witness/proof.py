"""Proof: rename every token of the batch, and see where the trained targets were taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment import InputError, Supervision
from alignment.barcode import Barcode, barcode, resolve_sources
from alignment.recovery import Reading
from alignment.sources import infer_sources, unpenalised

from ..errors import raised_by
from ..models.adapter import Batch, View
from ..models.modules import positions_hint, task_type_hint
from .one_pass import LossError, run_pass
from .pace import IDS
from .watched import Watched

__all__ = ["largest_id", "prove", "renamed", "retry_in_range"]

#: Share of rows that keep their token under every barcode from which a loss has labels that no barcode renamed.
HELD = 0.5


def _passes(
    watched: Watched, batch: Batch, view: View, *, up_to: int | None = None
) -> tuple[Barcode, list[list[Reading]]]:
    """The readings of the batch under every digit of a barcode, whose ids are none above ``up_to``."""
    usable = watched.adapter.usable_ids(watched.model, view)
    code = barcode(view.streams, usable if up_to is None else usable[usable <= up_to])
    return code, [run_pass(watched, *renamed(watched, batch, view, code, n)).readings for n in range(code.passes)]


def largest_id(view: View) -> int:
    """The largest of a batch."""
    return max((int(stream.ids.max()) for stream in view.streams if len(stream)), default=0)


def renamed(watched: Watched, batch: Batch, view: View, code: Barcode, digit: int) -> tuple[Batch, View]:
    """The batch under one digit of a barcode, and its view."""
    ids = [code.codes(n, len(stream), digit).to(stream.ids.device) for n, stream in enumerate(view.streams)]
    relabelled = watched.adapter.relabel(watched.model, batch, view, ids, code.foreign(digit))
    watched.pace.step(IDS)
    return relabelled, watched.adapter.view(watched.model, relabelled)


def prove(watched: Watched, batch: Batch, view: View, inferred: Sequence[Supervision]) -> tuple[Supervision, ...]:
    """The same supervision with sources proven by a barcode, where the loss runs under one.

    A head may score ids that the loss slices off: where it raises, once more with ids that are no larger than the
    batch's own.
    """
    try:
        try:
            code, passes = _passes(watched, batch, view)
        except LossError:
            code, passes = _passes(watched, batch, view, up_to=largest_id(view))
    except (LossError, InputError):
        return tuple(inferred)  # the loss holds on to its own labels: sources stay inferred
    proven = resolve_sources(inferred, code, passes)
    return tuple(
        unpenalised(_confirmed(n, was, now, view, [readings[n].target for readings in passes]))
        for n, (was, now) in enumerate(zip(inferred, proven, strict=True))
    )


def _confirmed(
    number: int, inferred: Supervision, proven: Supervision, view: View, targets: Sequence[Tensor]
) -> Supervision:
    """Proven sources that the batch as it is bears out; the others stay inferred.

    A loss that holds on to labels of its own trains the same token under every barcode, and a source whose
    own token is not the trained one is none. Where most rows hold on to theirs, the others name their source
    by chance; where a few do (an end that the loss appends), no other stream is where they take it from: it was
    renamed. Heads that read the same ids share their sources.
    """
    source, origin = proven.source.clone(), proven.origin.clone()
    held = torch.stack([target == inferred.target for target in targets]).all(0) & inferred.trained
    if int(held.sum()) > HELD * inferred.count:
        return replace(inferred, exact=False)
    doubtful = held & (source < 0)
    for other, stream in enumerate(view.streams):
        rows = torch.nonzero((origin == other) & (source >= 0)).reshape(-1)
        if other != number and torch.equal(stream.ids, view.streams[number].ids):
            origin[rows] = number
        doubtful[rows] = stream.ids[source[rows]] != proven.target[rows]
    appended = held & (inferred.origin != number)
    return replace(
        proven,
        source=torch.where(doubtful, inferred.source.masked_fill(appended, -1), source),
        origin=torch.where(doubtful, inferred.origin.masked_fill(appended, -1), origin),
        exact=proven.exact and not bool((doubtful & proven.trained).any()),
    )


def retry_in_range(watched: Watched, batch: Batch, view: View, error: LossError) -> tuple[Supervision, ...]:
    """A label out of a head's range: run it again with ids that every head knows, and see whose they are.

    Raises:
        UsageError: the loss failed for another reason.
    """
    if isinstance(error.cause, IndexError) or "out of bounds" in str(error.cause):
        try:
            code, passes = _passes(watched, batch, view)
            proven = resolve_sources(infer_sources(passes[0], view.streams), code, passes)
            return tuple(_literal(one, view) for one in proven)
        except (LossError, InputError):
            pass
    cause = error.cause
    hint = task_type_hint(watched.model, cause) or positions_hint(watched.model, batch, cause)
    raise raised_by("the loss function", cause, hint) from cause


def _literal(supervision: Supervision, view: View) -> Supervision:
    """The supervision with the batch's own ids as targets again, where a barcode stood in for them."""
    target = supervision.target.clone()
    for number, stream in enumerate(view.streams):
        rows = torch.nonzero((supervision.origin == number) & (supervision.source >= 0)).reshape(-1)
        target[rows] = stream.ids[supervision.source[rows]]
    return replace(supervision, target=target)
