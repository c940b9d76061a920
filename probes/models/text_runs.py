"""Text models run in other ways: padded otherwise, decoded step by step, and where an adapter sits in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment import IGNORE_INDEX

from ..host.forward_patch import signature_of
from ..host.walk import config_of
from .adapter import Batch, CannotDecodeError, Layout, Repadded, Step, View
from .decoding import beside, decoded
from .modules import embedding_rows, is_pretrained, virtual_tokens
from .reading import is_encoder_decoder
from .token_ids import placeholder_ids, text_config

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
        sides = (("right", (0, MORE)), ("left", (MORE, 0)))
        inner = self.inner(model)
        if not is_pretrained(inner) and "attention_mask" not in signature_of(inner).parameters:
            sides = sides[:1]  # it is never told where padding is: none can stand before what it reads
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
            for side, edges in sides
        ]

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """The trained rows, token by token; what stands before the first is the prompt."""
        inner = self.inner(model)
        encodes = is_encoder_decoder(inner)
        if learned := virtual_tokens(model):
            raise CannotDecodeError(f"{learned} puts virtual tokens before the prompt: it is not decoded")
        if PLACES & sample.keys() - {"position_ids"}:
            raise CannotDecodeError("packed documents are not decoded")
        ids = self._ids(inner, sample)
        mask = sample.get("decoder_attention_mask" if encodes else "attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.shape != ids.shape:
            raise CannotDecodeError(f"a mask of shape {tuple(mask.shape)} is not decoded")
        columns = torch.nonzero(mask[0]).reshape(-1)
        real = columns.tolist()
        first, last = _trained(sample, real, encodes=encodes)
        holders = [number for number, column in enumerate(real) if int(ids[0, column]) in placeholder_ids(inner)]
        start = max(last + 1 - steps, first, *holders[-1:]) + 1
        if start > last + 1:
            raise CannotDecodeError("nothing is trained behind the last placeholder")
        columns = columns[: last + 1]
        context = _context(sample, ids, columns, encodes=encodes)
        doubt = _padding_inside(inner, ids[0, columns]) if encodes else ""
        name = "decoder_input_ids" if encodes else "input_ids"
        for number, logits in enumerate(decoded(model, inner, name, ids[:, columns], start, context), start - 1):
            yield Step("text", real[number], logits, doubt)

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """The attention projections by their names; every linear layer where none is known."""
        layers = [path for path, module in model.named_modules() if hasattr(module, "weight") and not _leads(module)]
        names = {path.rpartition(".")[2] for path in layers if "att" in path.lower()}
        return sorted(filter(ATTENTION.fullmatch, names)) or "all-linear"


def _leads(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) or any(True for _ in module.children())


def _pad_id(inner: Any) -> int:
    """The id that pads: of the configuration or its text part, if the embedding has it."""
    rows = embedding_rows(inner)
    for config in (config_of(inner), text_config(inner)):
        pad = getattr(config, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and (rows is None or pad < rows):
            return pad
    return 0


def _trained(sample: Batch, real: list[int], *, encodes: bool) -> tuple[int, int]:
    """The first and the last trained of the rows ``real``; all of them where the sample has no labels."""
    for key, shift in (("labels", 0 if encodes else 1), ("shift_labels", 0)):
        labels = sample.get(key)
        if isinstance(labels, Tensor) and labels.dim() == 2:
            wanted = [number for number, column in enumerate(real) if int(labels[0, column]) != IGNORE_INDEX]
            if wanted:
                return max(wanted[0] - shift, 0), max(wanted[-1] - shift, 0)
    return 0, len(real) - 1


def _context(sample: Batch, ids: Tensor, columns: Tensor, *, encodes: bool) -> Batch:
    """What conditions the text: everything but ids, mask and labels; with an encoder, all that it reads.

    Raises:
        CannotDecodeError: positions that begin anew.
    """
    own = ("labels", "shift_labels", "decoder_input_ids", "decoder_attention_mask", "use_cache")  # decoding has its own
    if encodes:
        return {key: value for key, value in sample.items() if key not in own}
    own += ("input_ids", "attention_mask")
    context = {
        key: value[..., columns] if beside(value, ids) else value for key, value in sample.items() if key not in own
    }
    positions = context.get("position_ids")
    if isinstance(positions, Tensor):
        if bool((positions[..., 1:] < positions[..., :-1]).any()):
            raise CannotDecodeError("packed documents are not decoded")
        if bool((positions == torch.arange(len(columns), device=ids.device)).all()):
            del context["position_ids"]  # what any generation counts by itself
    return context


def _padding_inside(inner: Any, ids: Tensor) -> str:
    """Why decoding may differ where the decoder reads padding before a target; empty where it does not."""
    pad = _pad_id(inner)
    if not bool((ids[1:] == pad).any()):
        return ""
    return f"the decoder reads padding (id {pad}) before a target: labels of -100 there, which no generation writes"
