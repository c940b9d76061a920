"""Decoding: a text model led along the tokens of a sample, by its own ``generate`` where it has one."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..host.forward_patch import signature_of
from .adapter import Batch, CannotDecodeError
from .modules import unwrapped

__all__ = ["beside", "decoded", "step_of"]


def decoded(model: nn.Module, inner: Any, name: str, ids: Tensor, start: int, context: Batch) -> Iterator[Tensor]:
    """(V,) logits of the row before each token from ``start`` on, and of the last token's: T - start + 1 of them.

    The prompt fills the cache at once, every further token is fed alone.

    Args:
        model: the model, wrapped or not.
        inner: the transformers model in it, or the user's own module.
        name: under which keyword it reads ``ids``.
        ids: (1, T) int64, without padding.
        start: how many of them are the prompt, at least one.
        context: further keyword arguments; of those that lie beside the ids, the last axis is cut as the ids are.

    Raises:
        CannotDecodeError: it has no cache, or raises.
    """
    if _generates(model, inner, context):
        yield from _by_generate(inner, name, ids, start, context)
    else:
        yield from _by_hand(model, inner, name, ids, start, context)


def beside(value: Any, ids: Tensor) -> bool:
    """Whether a value of a batch has an entry for every id, on one axis or on several (positions of images)."""
    return isinstance(value, Tensor) and value.shape[-2:] == ids.shape


def _cut(context: Batch, ids: Tensor, columns: slice) -> Batch:
    return {key: value[..., columns] if beside(value, ids) else value for key, value in context.items()}


# -- by the model's own generate ----------------------------------------------------------------------


def _generates(model: nn.Module, inner: Any, context: Batch) -> bool:
    """Whether ``generate`` would run this very model and hand it all of ``context``.

    A module of the user's own around the model may change what reaches it, and is not called by ``generate``;
    positions that are given are not the ones that ``generate`` counts.
    """
    if unwrapped(model) is not inner or not getattr(inner, "can_generate", lambda: False)():
        return False
    known = signature_of(inner).parameters.keys() - {"position_ids"}
    return context.keys() <= known


def _by_generate(inner: Any, name: str, ids: Tensor, start: int, context: Batch) -> Iterator[Tensor]:
    """Logits before any processor; each next token is the sample's."""
    from transformers.generation import GenerationMixin

    tokens = ids[0].tolist()
    given = {**(_cut(context, ids, slice(start)) if name == "input_ids" else context), name: ids[:, :start]}
    if name == "input_ids":
        given["attention_mask"] = torch.ones_like(given[name])
    lengths: list[int] = []

    def next_token(_sample: int, so_far: Tensor) -> list[int]:
        return [tokens[min(len(so_far), len(tokens) - 1)]]

    def measure(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        read = kwargs.get(name)
        lengths.append(read.shape[1] if isinstance(read, Tensor) else 0)

    hooked = inner.register_forward_pre_hook(measure, with_kwargs=True)
    try:
        with hooked, _greedy(inner, len(tokens) - start + 1, tokens[0]) as config, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # not the class's own generate, which may do more than decode, as those of Whisper and SeamlessM4T do
            out = GenerationMixin.generate(
                inner, **given, generation_config=config, prefix_allowed_tokens_fn=next_token
            )
    except Exception as error:  # whatever it raises, it cannot decode this
        raise CannotDecodeError(f"decoding raises {type(error).__name__}: {error}") from error
    if lengths[1:] and lengths[-1] == len(tokens) and not _holds(getattr(out, "past_key_values", None)):
        raise CannotDecodeError(f"{type(inner).__name__} has no past_key_values: every step reads all tokens anew")
    if out.sequences[0, : len(tokens)].tolist() != tokens:
        raise CannotDecodeError("generation writes other tokens than those of the sample")
    yield from torch.cat(out.logits)


def _holds(cache: Any) -> bool:
    """Whether a cache has been filled; transformers 4 hands over tuples."""
    return cache is not None and (isinstance(cache, tuple) or cache.get_seq_length() > 0)


@contextmanager
def _greedy(inner: Any, steps: int, first: int) -> Iterator[Any]:
    """Greedy settings that nothing of the model's own is merged into, the kind of its cache excepted."""
    from transformers import GenerationConfig

    before = inner.generation_config
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=steps,
        use_cache=True,
        decoder_start_token_id=first,  # any other would be put before the sample's own
        cache_implementation=getattr(before, "cache_implementation", None),
        return_dict_in_generate=True,
        output_logits=True,
    )
    inner.generation_config = config
    try:
        yield config
    finally:
        inner.generation_config = before


# -- by hand ------------------------------------------------------------------------------------------


def _by_hand(model: nn.Module, inner: Any, name: str, ids: Tensor, start: int, context: Batch) -> Iterator[Tensor]:
    """An encoder reads its inputs again at every step, its decoder has the cache."""
    _check_cache(inner)
    encodes = name != "input_ids"
    cache, done = None, 0
    for end in range(start, ids.shape[1] + 1):
        given: Batch = {name: ids[:, done:end]}
        for key, value in context.items():
            follows = beside(value, ids) and not encodes
            if encodes or follows or cache is None:
                given[key] = value[..., done:end] if follows else value
        if not encodes:
            given["attention_mask"] = ids.new_ones((1, end))
        out = step_of(model, **given, past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        if cache is None:
            raise CannotDecodeError(f"{type(inner).__name__} hands back no past_key_values")
        yield out.logits[0, -1]
        done = end


def _check_cache(inner: Any) -> None:
    parameters = signature_of(inner).parameters
    missing = [name for name in ("past_key_values", "use_cache") if name not in parameters]
    if missing and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        raise CannotDecodeError(f"{type(inner).__name__}.forward takes no {' and no '.join(missing)}")


def step_of(forward: Callable[..., Any], **kwargs: Any) -> Any:
    """What one forward of a decoding gives.

    Raises:
        CannotDecodeError: it raises.
    """
    try:
        return forward(**kwargs)
    except Exception as error:  # whatever it raises, it cannot decode this
        raise CannotDecodeError(f"decoding raises {type(error).__name__}: {error}") from error
