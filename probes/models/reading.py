"""What a model reads: the ids that reach its decoder, which of them are padding, where documents begin."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from ..host.forward_patch import signature_of
from ..host.preserve import preserved
from ..host.sharded import must_finish
from ..host.walk import config_of

__all__ = ["CACHE", "decoder_ids", "decoder_of", "document_numbers", "is_encoder_decoder", "padding_mask"]

#: The argument by which a forward is given keys and values of what comes before its ids.
CACHE = "past_key_values"
#: Boundaries of packed documents over the flattened batch, as attention kernels take them.
BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens", "cu_seqlens_q", "cu_seqlens")
#: What is added to a score that must not count: this or less.
HIDDEN = -1e4


def padding_mask(mask: Any, ids: Tensor, *, cached: bool = False) -> Tensor | None:
    """The (B, T) padding mask of a batch; None where there is none (a four-dimensional mask hides no rows).

    Args:
        mask: as the model is given it.
        ids: (B, T).
        cached: whether keys and values come before the ids (a learnt prefix): the mask then begins with theirs.

    Raises:
        InputError: a mask of another length than the ids.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    if cached and mask.shape[1] > ids.shape[1]:
        mask = mask[:, -ids.shape[1] :]
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}, ids have {tuple(ids.shape)}: they must agree")
    return mask


def document_numbers(batch: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    """(B, T) int64: the packed document of each position; None where the batch says nothing of documents.

    Read off ``seq_idx``, ``cu_seq_lens_q`` (or its other spellings), numbers above one in the attention
    mask, ``position_ids`` that begin anew, or a block-diagonal mask, in this order.

    Raises:
        InputError: a ``seq_idx``, ``position_ids`` or boundaries that do not fit the ids.
    """
    given = batch.get("seq_idx")
    if isinstance(given, Tensor):
        return _fitted("seq_idx", given, ids)
    for key in BOUNDARIES:
        if isinstance(batch.get(key), Tensor):
            return _between(key, batch[key], ids)
    mask = batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == ids.shape and not mask.is_floating_point() and int(mask.max()) > 1:
        return mask.long()
    positions = batch.get("position_ids")
    found = _restarts(positions, ids) if isinstance(positions, Tensor) else None
    several = found is not None and bool((found != found[:, :1]).any())
    return found if several or not isinstance(mask, Tensor) else _blocks(mask, ids, found)


def _fitted(key: str, given: Tensor, ids: Tensor) -> Tensor:
    if given.shape[-1] != ids.shape[1] or given.numel() not in (ids.numel(), ids.shape[1]):
        raise InputError(f"{key} has shape {tuple(given.shape)}, ids have {tuple(ids.shape)}: they must agree")
    return given.reshape(-1, ids.shape[1]).expand_as(ids).long()


def _between(key: str, edges: Tensor, ids: Tensor) -> Tensor:
    """Document numbers from boundaries ``[0, n1, n1 + n2, ...]`` over the flattened batch."""
    flat = edges.reshape(-1).long().to(ids.device)
    if flat.numel() < 2 or int(flat[0]) != 0 or int(flat[-1]) > ids.numel() or bool((flat[1:] < flat[:-1]).any()):
        raise InputError(
            f"{key} must rise from 0 to at most the {ids.numel()} tokens of the batch, got {flat.tolist()}"
        )
    rows = torch.arange(ids.numel(), device=ids.device)
    return torch.searchsorted(flat, rows, right=True).reshape(ids.shape)


def _restarts(positions: Tensor, ids: Tensor) -> Tensor | None:
    """Documents begin where positions fall back or are zero; three axes (text, height, width) count as one."""
    axes = positions if positions.dim() == 3 else positions.reshape(1, -1, positions.shape[-1])
    if axes.shape[-1] != ids.shape[1] or axes.shape[1] not in (1, ids.shape[0]):
        raise InputError(f"position_ids have shape {tuple(positions.shape)}, ids {tuple(ids.shape)}: they must agree")
    axes = axes.to(ids.device).expand(-1, *ids.shape)  # (A, B, T)
    begin = (axes == 0).all(0)
    if bool(begin.all()):
        return None  # all zero: no positions at all
    begin[:, 1:] |= axes[0, :, 1:] < axes[0, :, :-1]
    return begin.long().cumsum(1)


def _blocks(mask: Tensor, ids: Tensor, otherwise: Tensor | None) -> Tensor | None:
    """Documents of a (B or 1, H, T, T) mask begin where a position sees itself, and nothing is seen across it."""
    length = ids.shape[1]
    if mask.dim() != 4 or mask.shape[-2:] != (length, length) or len(mask) not in (1, len(ids)):
        return otherwise
    seen = (mask > HIDDEN if mask.is_floating_point() else mask.bool()).any(1)
    itself = seen.diagonal(dim1=1, dim2=2)
    linked = (seen | seen.mT).tril() | torch.eye(length, dtype=torch.bool, device=seen.device)
    earliest = linked.long().argmax(-1)  # that a position sees, or is seen by
    from_here_on = earliest.flip(1).cummin(1).values.flip(1)
    begin = itself & (from_here_on >= torch.arange(length, device=seen.device))
    if int(begin[:, 1:].sum()) in (0, begin[:, 1:].numel()):
        return otherwise
    return begin.to(ids.device).long().cumsum(1).expand_as(ids)


# -- encoder-decoder models ---------------------------------------------------------------------------


def is_encoder_decoder(model: Any) -> bool:
    """Whether labels belong to a decoder of its own, which is not the module that reads ``input_ids``.

    A configuration may say so of a class that has none (a decoder's, copied from its whole model's).
    """
    says = bool(getattr(config_of(model), "is_encoder_decoder", False))
    return says and decoder_of(model) is not None and "decoder_input_ids" in signature_of(model).parameters


def decoder_ids(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """(B, T) int64: the ids that the decoder receives for a batch.

    Where the batch does not give them, the model itself is run up to its decoder, without gradients
    and without a trace, because each model builds them from the labels in its own way.

    Raises:
        InputError: the model cannot be run on the batch, or its decoder receives no ids.
    """
    given = batch.get("decoder_input_ids")
    if isinstance(given, Tensor):
        return given
    decoder = decoder_of(model)
    if decoder is None:
        raise InputError(f"{type(model).__name__} has no decoder that reads ids of its own")
    seen: list[Any] = []
    onwards = must_finish(model)

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = signature_of(module).bind_partial(module, *args, **kwargs).arguments
        ids = arguments.get("input_ids", arguments.get("input_values"))  # SpeechT5: values that are ids
        seen.append(None if isinstance(ids, Tensor) and ids.is_floating_point() else ids)
        if not onwards:
            raise _Seen

    hooked = decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with hooked, preserved(model), torch.no_grad():
            model(**_accepted(model, batch))
    except _Seen:
        pass
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise InputError(
            f"{type(model).__name__} does not run on the batch: {type(error).__name__}: {error}"
        ) from error
    if not seen or not isinstance(seen[0], Tensor):
        raise InputError(
            f"the decoder of {type(model).__name__} receives no ids for a batch of {', '.join(batch)}: "
            "give labels or decoder_input_ids"
        )
    return seen[0]


class _Seen(BaseException):
    """The decoder has been reached: nothing more needs to be run."""


def decoder_of(model: Any) -> nn.Module | None:
    """The module that reads the decoder's ids: the decoder of the decoder, where it has one."""
    found = None
    below = model
    while isinstance(below, nn.Module) and below is not found:
        found = below
        below = below.get_decoder() if hasattr(below, "get_decoder") else getattr(below, "decoder", None)
    return None if found is model else found


def _accepted(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    parameters = signature_of(model).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    return {key: value for key, value in batch.items() if key in parameters}
