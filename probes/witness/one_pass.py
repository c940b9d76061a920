"""One pass: run a loss once with its heads captured, and read what its gradient says of every row."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding
from alignment.recovery import FAINT, Form, Reading, silent_reading, smallest, without_faint

from ..errors import UsageError
from ..host.preserve import copy_of, same_random_state
from ..host.walk import unchanged
from ..models.adapter import Batch, Head, View
from ..models.causal_lm import CausalLMAdapter
from ..models.declared_heads import Logits
from .backward import dtypes_of, gradients_at, trains
from .capture import Capture
from .demands import is_shared
from .head_call import HeadCall
from .pace import LOSS
from .placement import place_readings
from .problems import as_scalar, not_finite
from .stand_in import Changes
from .turned import TREATS_ALIKE, Turned
from .watched import Watched

__all__ = ["LossError", "Pass", "run_aimed", "run_along", "run_pass", "run_penalties", "run_turned"]

#: What a call of a head, counted in order, says by the gradients that a backward has brought to it.
ReadCall = Callable[[int, HeadCall], Reading]


@dataclass
class Pass:
    """One run of the loss: readings per stream, and what else was seen.

    ``calls`` are those that a forward trains of a head which it calls more than once over all of its rows.
    ``forwards`` are the readings of each forward, where several of the same inputs train rows on different tokens.
    ``given`` are the rows of each stream that the model was given, where that is known; ``shared`` says that each
    process is given a part of every sample.
    """

    readings: list[Reading]
    capture: Capture
    loss: float
    finite: bool
    unplaced: Counter[str] = field(default_factory=Counter)
    problems: list[Finding] = field(default_factory=list)
    calls: tuple[int, ...] = ()
    rounding: float = 0.0
    past: bool = False
    given: Sequence[Tensor | None] = ()
    forwards: Sequence[Sequence[Reading]] = ()
    shared: bool = False

    @property
    def reads(self) -> int:
        """How many rows have a gradient."""
        return sum(int((reading.form != int(Form.NONE)).sum()) for reading in self.readings)

    def take(self, other: Pass, streams: Sequence[int]) -> None:
        """Take what ``other`` read of streams of which this pass read nothing."""
        for number in streams:
            if not bool((self.readings[number].form != int(Form.NONE)).any()):
                self.readings[number] = other.readings[number]
        self.unplaced += other.unplaced
        self.problems = other.problems


class LossError(Exception):
    """The loss raised: why, and what was captured until then."""

    def __init__(self, cause: Exception, capture: Capture) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.capture = capture


def run_pass(watched: Watched, batch: Batch, view: View) -> Pass:
    """Run the loss once, and once more at its input for every head that its gradient went past."""
    heads = watched.adapter.heads(watched.model, view)
    seen = _run_at(watched, batch, view, heads)
    seen.shared = is_shared(view, seen.given)
    if seen.shared:
        watched.pace.join(watched.model)
    if not seen.finite:
        return seen
    for head in (head for head in heads if head.is_plain and not isinstance(head.module, Logits)):
        if seen.problems or any(_is_silent(seen.readings[n], view.labels[n]) for n in head.streams):
            past = _run_at(watched, batch, view, heads, alone=head)
            if not past.reads:
                continue
            if not _is_elsewhere(watched, batch, view, heads, head, past):
                seen.take(past, head.streams)
            elif seen.problems:
                what = f"the loss trains hidden states, and none of its gradient reaches the {head.name} head"
                seen.problems = [finding("LA605", "all", f"{what}: its logits are detached, or not used")]
    if seen.past and seen.problems:  # the loss multiplies the weight of a head itself, by rows that no module gave
        seen.readings = _unread([number for head in heads for number in head.streams], seen.readings)
        seen.problems = []
    return seen


def _is_elsewhere(watched: Watched, batch: Batch, view: View, heads: Sequence[Head], head: Head, past: Pass) -> bool:
    """Whether what a labelled stream's hidden rows are trained for is no logit: the loss never reaches the head.

    Where the rows name targets, or the head's weight has a gradient, it is a loss on logits that it makes itself.
    """
    labelled = any((labels := view.labels[n]) is not None and bool((labels >= 0).any()) for n in head.streams)
    named = any(bool((past.readings[n].target >= 0).any()) for n in head.streams)
    weight = getattr(head.module, "weight", None)
    if named or not labelled or not isinstance(weight, nn.Parameter) or hasattr(weight, "full_tensor"):
        return False
    watched.pace.step(LOSS + 1 + heads.index(head))
    asked = weight.requires_grad
    capture = watched.capture(heads, alone=head)
    try:
        weight.requires_grad_(requires_grad=True)
        with same_random_state(watched.model), torch.enable_grad(), capture:
            (grad,) = gradients_at([weight], watched.loss_fn(watched.model, copy_of(batch)), watched.model)
    finally:
        weight.requires_grad_(requires_grad=asked)
    return grad is None or not bool((grad != 0).any())


def run_along(watched: Watched, batch: Batch, view: View, kind: int) -> None:
    """Run a pass of a kind for its part in the forward of all processes; whatever it raises has been told."""
    heads = watched.adapter.heads(watched.model, view)
    with suppress(Exception):  # as the docstring says
        if kind < LOSS:
            watched.adapter.view(watched.model, batch)
        else:
            _run_at(watched, batch, view, heads, alone=heads[kind - LOSS - 1] if kind > LOSS else None)


def _is_silent(reading: Reading, labels: Tensor | None) -> bool:
    """Whether a stream has labels and no gradient."""
    read = labels is None or bool((reading.form != int(Form.NONE)).any())
    return not read and bool((labels >= 0).any())


def run_penalties(watched: Watched, batch: Batch, view: View) -> list[Tensor]:
    """Run the loss at wide logits: per stream, (R,) int64, the penalty that is all of a row's gradient, or none.

    Raises:
        LossError: the loss raises.
    """
    wide, heads = _at_wide(watched), watched.adapter.heads(watched.model, view)
    seen = _run_at(wide, batch, view, heads, read_call=lambda _, call: call.penalties())
    return [reading.target.clamp(min=0) for reading in seen.readings]


def run_turned(watched: Watched, batch: Batch, view: View, rounding: float) -> list[Tensor]:
    """Run the loss twice at wide logits: per stream, (R,) bool, rows whose gradient treats all tokens alike.

    ``rounding`` is the spacing of the coarsest numbers that it passes through.

    Raises:
        LossError: the loss raises.
    """
    wide, heads = _at_wide(watched), watched.adapter.heads(watched.model, view)
    turned = Turned(rounding)
    _run_at(wide, batch, view, heads, read_call=turned.look)
    turned.begin_again()
    seen = _run_at(wide, batch, view, heads, turned=turned, read_call=turned.look_again)
    return [reading.target == TREATS_ALIKE for reading in seen.readings]


def run_aimed(watched: Watched, batch: Batch, view: View, aim: Changes) -> Pass:
    """Run the loss once at logits of which some rows lose most, as ``aim`` says.

    Raises:
        LossError: the loss raises.
    """
    return _run_at(watched, batch, view, watched.adapter.heads(watched.model, view), turned=aim)


def _at_wide(watched: Watched) -> Watched:
    return replace(watched, options=replace(watched.options, values="wide"))


def _run_at(
    watched: Watched,
    batch: Batch,
    view: View,
    heads: Sequence[Head],
    alone: Head | None = None,
    *,
    turned: Changes | None = None,
    read_call: ReadCall = lambda _, call: call.read(),
) -> Pass:
    """One run; again with all layers where some were passed by and the loss raises, reads one, or has no gradient."""
    watched.pace.step(LOSS if alone is None else LOSS + 1 + heads.index(alone))
    try:
        seen = _run(watched, batch, view, heads, alone, turned, read_call)
    except LossError as error:
        if not error.capture.passed:
            raise
    else:
        if not (seen.capture.passed and (seen.problems or seen.capture.body_read)):
            return seen
    whole = replace(watched, options=replace(watched.options, whole=True))
    return _run(whole, batch, view, heads, alone, turned, read_call)


def _run(
    watched: Watched,
    batch: Batch,
    view: View,
    heads: Sequence[Head],
    alone: Head | None,
    turned: Changes | None,
    read_call: ReadCall,
) -> Pass:
    model, adapter, options = watched.model, watched.adapter, watched.options
    with ExitStack() as inside:
        with unchanged():
            ids = adapter.followed(model, batch) if isinstance(adapter, CausalLMAdapter) else ()
            capture = watched.capture(heads, alone=alone, alike=options.alike, turned=turned, whole=options.whole)
            for given in ids:
                capture.begin(given)
            # equal conditions for every pass: dropout and sampling in the loss must not differ between them
            for condition in (same_random_state(model), torch.enable_grad(), capture, warnings.catch_warnings()):
                inside.enter_context(condition)
        # reentrant checkpoints say so in a body that runs without gradients
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        try:
            value = watched.loss_fn(model, copy_of(batch))
        except UsageError:
            raise
        except SystemExit as error:
            raise UsageError(f"the loss function ended the program (sys.exit({error.code!r}))") from error
        except Exception as error:  # the user's loss may raise anything
            raise LossError(error, capture) from error
        capture.returned()
        loss, problems = as_scalar(value, capture)
        number = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        if problems:
            return Pass(_nothing(view), capture, number, finite=True, problems=problems)
        assert isinstance(loss, Tensor)
        reached = capture.read(loss, read_call)
    if not reached:
        detached = finding("LA605", "all", "the loss has a gradient, but none reaches the logits of any head")
        weights = [one for head in heads if head.is_plain for one in head.module.parameters()]
        return Pass(_nothing(view), capture, number, finite=True, problems=[detached], past=trains(loss, weights))
    dtypes = dtypes_of(loss)
    least = FAINT * max(map(smallest, dtypes), default=0.0)
    read = [
        without_faint(call.reading or silent_reading(call.count * call.head.books, call.device), least)
        for call in capture.calls
    ]
    problems = not_finite(number, capture, read, view)
    placed = place_readings(capture, read, model, adapter, view)
    calls = _repeated(capture, placed.rows)
    coarse = max((torch.finfo(one).eps for one in dtypes), default=0.0)
    readings = watched.in_order(placed.readings)
    out = Pass(readings, capture, number, not problems, placed.unplaced, problems, calls, coarse)
    return replace(out, given=placed.given, forwards=placed.forwards)


def _nothing(view: View) -> list[Reading]:
    """What is read of a loss that trains nothing."""
    return [silent_reading(len(stream), stream.ids.device) for stream in view.streams]


def _repeated(capture: Capture, placed: Sequence[Tensor]) -> tuple[int, ...]:
    """Which calls of a head a forward trains, where it calls it again over the same rows; else none.

    Calls on parts of the rows (chunks) have few or none in common. Which of its rows a call trains is no matter: few of
    those that are labelled for the next token may be so for the one after.
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    for call, rows in zip(capture.calls, placed, strict=True):
        found.setdefault((call.forward, call.head.name), []).append(rows)
    most: tuple[int, ...] = ()
    for rows in found.values():
        trained = tuple(nth for nth, mine in enumerate(rows) if len(mine))
        again = all(_share(rows[one], rows[other]) for one, other in pairwise(trained))
        if len(trained) > max(len(most), 1) and again:
            most = trained
    return most


def _share(one: Tensor, other: Tensor) -> bool:
    """Whether two calls are over the same rows, by more than half of the fewer."""
    return 2 * int(torch.isin(one, other).sum()) > min(len(one), len(other))


def _unread(streams: Sequence[int], readings: Sequence[Reading]) -> list[Reading]:
    """Readings of which no row of some streams could be read."""
    out = list(readings)
    for number in streams:
        out[number] = replace(out[number], form=torch.full_like(out[number].form, int(Form.SOFT)))
    return out
