"""Text models run in other ways: padded otherwise, decoded step by step, and where an adapter sits in them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import Batch, CannotDecodeError, Layout, Repadded, Step, View
from .reading import is_encoder_decoder
from .token_ids import placeholder_ids

__all__ = ["TextRuns"]

#: How many columns of padding are added.
MORE = 8
#: What padding is called in tensors that lie beside the ids.
PADDING = {"labels": -100, "shift_labels": -100}
#: Names of attention projections, over the model families.
ATTENTION = re.compile("(q|k|v|o|out|in|qkv)_proj|(q|k|v|out)_lin|query|key|value|query_key_value|c_attn|Wqkv|[qkvo]")
#: Tensors that say where documents or positions begin: padding would have to be written into them.
PLACES = frozenset(("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens", "cu_seqlens_q", "cu_seqlens"))


class TextRuns:
    """The part of the text adapter that the checks of causality, padding, decoding and LoRA ask for."""

    inner: Any
    _ids: Any

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """One kind, and another where placeholders stand for frames or patches."""
        text = view.streams[0]
        return Layout(tuple(stream.row for stream in view.streams), ("text", "placeholders"), text.filler.long())

    def redraw_references(self, model: nn.Module, batch: Batch, later: Tensor, generator: torch.Generator) -> Batch:
        """Nothing: features of images and audio stand before the text that they condition."""
        return batch

    def repadded(self, model: nn.Module, batch: Batch) -> list[Repadded]:
        """A few columns more on either side of the ids that the model reads first; none where positions are given."""
        ids = batch.get("input_ids")
        if not isinstance(ids, Tensor) or ids.dim() != 2 or PLACES & batch.keys():
            return []
        mask = batch.get("attention_mask")
        if mask is not None and mask.shape != ids.shape:
            return []
        given = {**batch, "attention_mask": torch.ones_like(ids) if mask is None else mask}
        kept = ("labels", "decoder_") if is_encoder_decoder(self.inner(model)) else ()
        padding = {**PADDING, "input_ids": _pad_id(self.inner(model))}
        return [
            Repadded(
                f"{MORE} more columns of padding on the {side}",
                (
                    {
                        key: F.pad(value, edges, value=padding.get(key, 0))
                        if isinstance(value, Tensor) and value.shape == ids.shape and not key.startswith(kept or "-")
                        else value
                        for key, value in given.items()
                    },
                ),
            )
            for side, edges in (("right", (0, MORE)), ("left", (MORE, 0)))
        ]

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Token by token; an encoder reads its inputs again at every step, its decoder has the cache."""
        inner = self.inner(model)
        encodes = is_encoder_decoder(inner)
        _check_cache(inner)
        if PLACES & sample.keys() - {"position_ids"}:
            raise CannotDecodeError("packed documents are not decoded")
        ids = self._ids(inner, sample)
        name = "decoder_input_ids" if encodes else "input_ids"
        mask = sample.get("decoder_attention_mask" if encodes else "attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.shape != ids.shape:
            raise CannotDecodeError(f"a mask of shape {tuple(mask.shape)} is not decoded")
        real = torch.nonzero(mask[0]).reshape(-1).tolist()
        holders = [number for number, column in enumerate(real) if int(ids[0, column]) in placeholder_ids(inner)]
        start = max(len(real) - steps, 1, *(number + 1 for number in holders[-1:]))
        context = _context(sample, encodes=encodes)
        cache, done = None, 0
        for end in range(start, len(real)):
            columns = real[done:end]
            given: Batch = {name: ids[:, columns]}
            for key, value in context.items():
                beside = isinstance(value, Tensor) and value.shape == ids.shape and not encodes
                if encodes or beside or cache is None:
                    given[key] = value[:, columns] if beside else value
            if not encodes:
                given["attention_mask"] = ids.new_ones((1, end))
            out = _call(model, **given, past_key_values=cache, use_cache=True)
            cache = getattr(out, "past_key_values", None)
            if cache is None:
                raise CannotDecodeError(f"{type(inner).__name__} hands back no past_key_values")
            yield Step("text", real[end - 1], out.logits[0, -1])
            done = end

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """The attention projections by their names; every linear layer where none is known."""
        layers = [path for path, module in model.named_modules() if hasattr(module, "weight") and not _leads(module)]
        names = {path.rpartition(".")[2] for path in layers if "att" in path.lower()}
        return sorted(filter(ATTENTION.fullmatch, names)) or "all-linear"


def _leads(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) or any(True for _ in module.children())


def _pad_id(inner: Any) -> int:
    pad = getattr(getattr(inner, "config", None), "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else 0


def _check_cache(inner: Any) -> None:
    parameters = inspect.signature(type(inner).forward).parameters
    missing = [name for name in ("past_key_values", "use_cache") if name not in parameters]
    if missing and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        raise CannotDecodeError(f"{type(inner).__name__}.forward takes no {' and no '.join(missing)}")


def _context(sample: Batch, *, encodes: bool) -> Batch:
    """What conditions the text: everything but ids, mask and labels; with an encoder, all that it reads."""
    own = ("labels", "shift_labels", "decoder_input_ids", "decoder_attention_mask")
    if not encodes:
        own += ("input_ids", "attention_mask")
    return {key: value for key, value in sample.items() if key not in own}


def _call(model: nn.Module, **kwargs: Any) -> Any:
    try:
        return model(**kwargs)
    except Exception as error:
        raise CannotDecodeError(f"decoding raises {type(error).__name__}: {error}") from error
