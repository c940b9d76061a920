"""Sketched: read a gradient taken at real logits, of which a sketch alone is left when it arrives.

For cross-entropy d loss / d logits = weight * (softmax - onehot(target)), so the gradient at the likeliest tokens of
a row, in proportion to their probabilities, gives the weight, and the one token that breaks the proportion is the
target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .blocks import place_of_least
from .errors import InputError
from .recovery import (
    CHUNK_ELEMENTS,
    FAINT,
    PLAIN_RESIDUAL,
    RIVAL_PULL,
    SOFT_RESIDUAL,
    Form,
    Reading,
    silent_reading,
    smallest,
    write,
)
from .sketch import Sketch, room
from .streams import IGNORE_INDEX

__all__ = ["read_sketched"]

#: A token that is pulled by less than this much of what the others are pushed with is no hard target.
LEAST_PULL = 0.5
#: Weights of rows alike lie within this factor of one another; what would take one beyond its square is not believed.
ALIKE_WEIGHTS = 10.0
#: From this probability on, a fit is judged by the other tokens alone: the target's own entry hides them.
LIKELY = 0.5
#: Relative slack for tokens outside the sketch, which are no likelier than the last one in it.
SLACK = 2e-2
#: Log-probabilities of a row that lie closer together, in squares, tell no power between them.
LEAST_SPREAD = 1e-3
#: Most rows must tell the same power, up to this part of it: a soft teacher's tell one each.
ALIKE = 0.1
TINY = torch.finfo(torch.float64).tiny


def read_sketched(grad: Tensor, kept: Sketch) -> Reading:
    """Decode ``grad = d loss / d logits`` by the sketch of the logits it was taken at.

    Rows are read as by :func:`alignment.recovery.read`. A row whose gradient may have underflowed, so that
    nothing tells a target from none, has the form SOFT: it is unreadable, not unsupervised. A target that the
    head masks out has the form NOT_FINITE: its loss is infinite, although its gradient is not.

    Args:
        grad: (R, V).
        kept: of the R rows.

    Raises:
        InputError: another number of rows or ids.
    """
    if grad.shape != (len(kept.token), kept.vocab):
        wanted = (len(kept.token), kept.vocab)
        raise InputError(f"gradient has shape {tuple(grad.shape)}, the sketched logits {wanted}: they must agree")
    kept = _without_sliced(grad, kept)
    step = max(1, CHUNK_ELEMENTS // kept.vocab)
    space = room(grad, step)
    reading = silent_reading(len(grad), grad.device)
    for first in range(0, len(grad), step):
        part = slice(first, first + step)
        _read_chunk(reading.select(part), grad.detach()[part], kept.token[part], kept.log_prob[part], space)
    reading.form[_underflown(reading, kept, grad.dtype, _stretch(grad, kept, reading))] = int(Form.SOFT)
    infinite = (reading.target >= 0) & kept.masked[reading.target.clamp(min=0)]
    reading.form[infinite], reading.target[infinite] = int(Form.NOT_FINITE), IGNORE_INDEX
    reading.weight[infinite] = torch.nan
    return reading


def _without_sliced(grad: Tensor, kept: Sketch) -> Sketch:
    """The sketch of the logits without the last ids, where the loss has sliced those off: no row has a gradient there.

    In half precision a column may vanish by itself.
    """
    silent = ~(grad[:, -kept.last.shape[1] :] != 0).any(0)
    sliced = int(silent.flip(0).long().cumprod(0).sum())
    if not sliced or grad.dtype == torch.float16 or not bool((grad != 0).any()):
        return kept
    left = torch.log1p(-kept.last[:, -sliced:].double().exp().sum(1, keepdim=True).clamp(max=1 - 1e-12))
    log_prob = (kept.log_prob - left).to(kept.log_prob.dtype)
    return replace(
        kept, log_prob=log_prob.masked_fill(kept.token >= kept.vocab - sliced, torch.finfo(log_prob.dtype).min)
    )


def _stretch(grad: Tensor, kept: Sketch, reading: Reading) -> float:
    """By what the logits were multiplied after they were sketched (a temperature), at least 1; no more than a guess.

    Entries of two tokens that are no target stand to each other as their probabilities do, to this power.
    """
    active = torch.nonzero(reading.form != int(Form.NONE)).reshape(-1)
    if len(active) == len(reading.form) or 2 * int((reading.form[active] == int(Form.PLAIN)).sum()) >= len(active):
        return 1.0
    known = grad.detach()[active].gather(1, kept.token[active]).double()
    used = known > 0
    count = used.sum(1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        values = values.masked_fill(~used, 0)
        return (values - values.sum(1, keepdim=True) / count) * used

    off_prob, off_size = centred(kept.log_prob[active].double()), centred(known.log())
    spread = off_prob.square().sum(1)
    told = (count[:, 0] > 2) & (spread > LEAST_SPREAD)
    slopes = (off_prob * off_size).sum(1)[told] / spread[told]
    if not len(slopes):
        return 1.0
    middle = slopes.median()
    alike = (slopes - middle).abs() <= ALIKE * middle
    return max(1.0, float(middle)) if 2 * int(alike.sum()) > len(slopes) else 1.0


def _underflown(reading: Reading, kept: Sketch, dtype: torch.dtype, stretch: float) -> Tensor:
    """(R,) bool: rows without a gradient, of which a target's own might have been too small to be written.

    Whatever the target, the gradient has an entry of at least the second likeliest token's probability, where the loss
    has seen it: of logits that were multiplied by ``stretch``.
    """
    silent = reading.form == int(Form.NONE)
    if kept.token.shape[1] < 2:
        return torch.zeros_like(silent)
    sizes = reading.weight[(reading.target >= 0) & (reading.weight != 0)].abs()
    weight = float(sizes.min()) if sizes.numel() else 1 / max(len(silent), 1)
    seen = torch.log_softmax(kept.log_prob.double() * stretch, 1) if stretch > 1 else kept.log_prob.double()
    second = seen.topk(2, 1).values[:, 1]
    return silent & (second.exp() * weight * stretch < smallest(dtype))


def _read_chunk(reading: Reading, grad: Tensor, token: Tensor, log_prob: Tensor, space: Tensor) -> None:
    """Decode some rows into ``reading``, which is of them alone."""
    low, high = grad.amin(1), grad.amax(1)
    active = torch.nonzero((low != 0) | (high != 0)).reshape(-1)  # NaN differs from 0
    if not len(active):
        return
    if len(active) < len(grad):
        grad, low, high = grad[active], low[active], high[active]
    scale = torch.maximum(low.abs(), high.abs()).double()
    best = _best_fit(_Rows.of(grad, scale, token[active], log_prob[active], space))
    form = torch.where(scale.isfinite(), best.form, int(Form.NOT_FINITE))
    write(reading, active, best.token, best.weight * scale, best.residual, form)


def _best_fit(rows: _Rows) -> _Fit:
    """The first explanation of each row that is plain: a token pulled, one pushed, the likeliest one pulled.

    The likeliest token may be a target that has been learnt, whose own entry is zero or, with label smoothing,
    positive. It may also be one that is pushed away, which looks as if the second likeliest were pulled.
    """
    pulled = _Fit.of(rows, place_of_least(rows.grad), 1)
    sure, likely = rows.token[:, 0], rows.prob[:, 0] > LIKELY
    left = torch.nonzero((pulled.form != int(Form.PLAIN)) | (likely & (pulled.token != sure))).reshape(-1)
    if left.numel():
        pulled = pulled.replaced(left, _second_look(rows.select(left), pulled.select(left)))
        pulled = replace(pulled, form=pulled.form.masked_fill(_pulled_like_others(rows, pulled), int(Form.PLAIN)))
    faint = rows.least * FAINT > 1
    return replace(pulled, form=pulled.form.masked_fill(faint, int(Form.SOFT)))


def _second_look(rows: _Rows, pulled: _Fit) -> _Fit:
    """The best explanation of rows that a pulled token does not explain, or not alone."""
    sure, likely = rows.token[:, 0], rows.prob[:, 0] > LIKELY
    pushed = _Fit.of(rows, torch.where(rows.grad.amax(1) > 0, rows.grad.argmax(1), sure), -1)
    learnt = _Fit.of(rows, sure, 1)
    best = learnt.better_than(pushed.better_than(pulled, only_plain=True))
    form = best.form.clone()
    # nothing is pulled, and the likeliest token is pushed with the others: it is no target that has been learnt
    together = rows.known[:, 0] > LEAST_PULL * learnt.weight * rows.prob[:, 0]
    alone = (form == int(Form.SOFT)) & (rows.grad.amin(1) >= 0) & together & (rows.exact | ~likely)
    form[alone] = int(Form.REGULARISER)
    both = (pulled.form == int(Form.PLAIN)) & (pushed.form == int(Form.PLAIN)) & likely & (pulled.token != sure)
    away = _moves_the_rest(rows, pulled.token, pushed.token)
    form[both & (away == 0)] = int(Form.SOFT)
    best = replace(best, form=form)
    turned = torch.nonzero(both & (away < 0)).reshape(-1)
    return best.replaced(turned, pushed.select(turned)) if turned.numel() else best


def _pulled_like_others(rows: _Rows, fit: _Fit) -> Tensor:
    """(r,) bool: rows that show two tokens alone, of which one is pulled with the weight that other rows have.

    To push the likelier one away would look the same, and take a weight that is larger by the other's probability.
    """
    sizes = (fit.weight * rows.scale).abs()
    plain = fit.form == int(Form.PLAIN)
    if not bool(plain.any()):
        return plain
    usual = sizes[plain].median()
    alike = (sizes <= ALIKE_WEIGHTS * usual) & (sizes * ALIKE_WEIGHTS >= usual)
    chance = (rows.prob * (rows.token == fit.token[:, None])).sum(1)
    two = (fit.form == int(Form.SOFT)) & (fit.weight > 0) & (fit.residual <= PLAIN_RESIDUAL)
    return two & alike & (chance * ALIKE_WEIGHTS**2 * ALIKE_WEIGHTS < 1)


def _moves_the_rest(rows: _Rows, pulled: Tensor, pushed: Tensor) -> Tensor:
    """(r,): 1 where all tokens but these two are pushed away (one of them is pulled), -1 where they are pulled up.

    0 where nothing is left of them. However small they are, their sign tells.
    """
    others = rows.known.masked_fill((rows.token == pulled[:, None]) | (rows.token == pushed[:, None]), 0)
    up, down = (others < 0).any(1), (others > 0).any(1)
    return down.long() - up.long()


@dataclass(frozen=True)
class _Rows:
    """Active rows: the gradient over its largest entry, and what the sketch says of them."""

    grad: Tensor  # (r, V) float32; changed while a fit is made, and put back
    token: Tensor  # (r, k)
    prob: Tensor  # (r, k) float64
    known: Tensor  # (r, k) float64, the gradient at the sketched tokens
    scale: Tensor  # (r,) float64, its largest entry
    least: Tensor  # (r,) float64, what is too small to be written, over the largest entry
    exact: Tensor  # (r,) bool, no half precision that lets small entries vanish

    @classmethod
    def of(cls, grad: Tensor, scale: Tensor, token: Tensor, log_prob: Tensor, space: Tensor) -> _Rows:
        """Rows of a gradient, whose largest entries are ``scale``; what they are divided into is put into ``space``."""
        by = scale if grad.dtype == torch.float64 else scale.float()
        even = torch.div(grad, by[:, None], out=space[: len(grad)])
        known = even.gather(1, token).double()
        exact = torch.full_like(scale, grad.dtype != torch.float16, dtype=torch.bool)
        return cls(even, token, log_prob.double().exp(), known, scale, smallest(grad.dtype) / scale, exact)

    def select(self, rows: Tensor) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Fit:
    """How far ``weight * (softmax - onehot(token))`` explains each row, the weight read off the other tokens."""

    token: Tensor
    weight: Tensor
    residual: Tensor
    form: Tensor

    @classmethod
    def of(cls, rows: _Rows, token: Tensor, sign: int) -> _Fit:
        """Fit ``token``, pulled (``sign`` 1) or pushed (-1)."""
        at = token[:, None]
        other = rows.token != at
        prob, known = rows.prob * other, rows.known * other
        own = (rows.prob * ~other).sum(1)  # 0 where the token is none of the sketch
        entry = rows.grad.gather(1, at)[:, 0].double()
        size = prob.amax(1).clamp(min=TINY)
        shape = prob / size[:, None]
        weight = (known * shape).sum(1) / shape.square().sum(1) / size
        alone = entry / (own - 1).clamp(max=-1e-6)
        # only the token's own entry is there, and the others would be too small to be written
        gone = (known == 0).all(1) & (entry != 0) & (alone.abs() * size < 2 * rows.least)
        weight = torch.where(gone, alone, weight)
        places = torch.cat([at, rows.token], 1)
        kept = rows.grad.gather(1, places)
        rest = rows.grad.scatter_(1, places, 0)
        low, high = (sign * value for value in (rest.amin(1), rest.amax(1))[::sign])
        bound = (weight * sign * rows.prob[:, -1] * (1 + SLACK)).clamp(min=0).float()
        rival = torch.maximum(-low.double(), (-known * sign).amax(1))
        others = torch.hypot(_norm(known), _norm(rest))
        whole = torch.hypot(others, entry)
        astray = torch.zeros_like(entry)
        out = torch.nonzero(~((low >= 0) & (high <= bound))).reshape(-1)
        if out.numel():  # above what it may be, or below 0
            beyond = rest[out] * sign
            astray[out] = _norm(torch.maximum(beyond - bound[out, None], -beyond).clamp_(min=0))
        rest.scatter_(1, places, kept)
        wrong = torch.hypot(_norm((known - weight[:, None] * prob).masked_fill(gone[:, None], 0)), astray)
        judged = torch.where((own > LIKELY) & ~gone, others, whole)
        residual = wrong / judged.clamp(min=TINY)
        pulled = (weight * own - entry) * sign
        holds = (weight * sign > 0) & (pulled > LEAST_PULL * weight.abs())
        form = torch.full_like(token, int(Form.SOFT))
        form[holds & (residual <= SOFT_RESIDUAL) & (rival <= RIVAL_PULL)] = int(Form.NOT_PLAIN)
        form[holds & (residual <= PLAIN_RESIDUAL)] = int(Form.PLAIN)
        return cls(token, weight, residual, form)

    def select(self, rows: Tensor) -> _Fit:
        return _Fit(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def replaced(self, rows: Tensor, by: _Fit) -> _Fit:
        return _Fit(*(getattr(self, name).index_copy(0, rows, getattr(by, name)) for name in self.__dataclass_fields__))

    def better_than(self, other: _Fit, *, only_plain: bool = False) -> _Fit:
        """This fit where it is plain and the other is not, or where it has a hard target and the other has none."""
        mine = (self.form == int(Form.PLAIN)) & (other.form != int(Form.PLAIN))
        if not only_plain:
            mine |= (self.form != int(Form.SOFT)) & (other.form == int(Form.SOFT))
        return _Fit(*(torch.where(mine, getattr(self, n), getattr(other, n)) for n in self.__dataclass_fields__))


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).double()
