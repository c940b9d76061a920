"""The released Higgs model run in other ways: later inputs replaced, padded otherwise, decoded step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment import IGNORE_INDEX

from .adapter import Batch, CannotDecodeError, Layout, Repadded, Step, View
from .decoding import step_of

__all__ = ["HiggsRuns"]

KINDS = ("text", "reference audio", "target audio")
TEXT_KEYS = ("input_ids", "attention_mask", "label_ids")
CODES = ("audio_in_ids", "audio_out_ids", "label_audio_ids")
#: How many tokens longer the sample is that makes the model pad a lone one.
MORE = 8
#: Attention projections of the text model, and the feed-forward layers of its audio path; not the audio tower's.
LORA_TARGETS = r"layers\.\d+\.(self_attn\.[qkvo]_proj|audio_mlp\.(gate|up|down)_proj)"


class HiggsRuns:
    """The part of the Higgs adapter that the checks of causality, padding, decoding and LoRA ask for."""

    inner: Any
    expansion: Any
    split: Any

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """Text over the expanded positions; a frame lies at the position of its placeholder's frame."""
        config = self.inner(model).config
        text = view.streams[0]
        kind = torch.zeros_like(text.ids)
        kind[text.ids == config.audio_in_token_idx] = 1
        kind[text.ids == config.audio_out_token_idx] = 2
        frames = text.row[kind == 2]
        return Layout((text.row, *(frames for _ in view.streams[1:])), KINDS, kind)

    def redraw_references(self, model: nn.Module, batch: Batch, later: Tensor, generator: torch.Generator) -> Batch:
        """Other codes at the frames of reference audio that ``later`` names; whisper features are left alone."""
        codes = batch.get("audio_in_ids")
        if codes is None:
            return batch
        config = self.inner(model).config
        frames = later[self.expansion(model, batch).ids.reshape(-1) == config.audio_in_token_idx]
        if len(frames) != codes.shape[1]:  # each reference holds whisper features beside its codes
            return batch
        step = torch.randint(1, config.audio_codebook_size, codes.shape, generator=generator).to(codes)
        return {**batch, "audio_in_ids": torch.where(frames, (codes + step) % config.audio_codebook_size, codes)}

    def repadded(self, model: nn.Module, batch: Batch) -> list[Repadded]:
        """A lone sample is padded left by the model itself, several are padded right."""
        if batch["input_ids"].shape[0] > 1:
            alone = tuple(_trimmed(sample) for sample in self.split(model, batch))
            return [Repadded("each sample alone (padded left)", alone)]
        return [Repadded("with a longer second sample (padded right)", (_doubled(_trimmed(batch)),))]

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Text tokens and frames one by one, as ``HiggsAudioModel.generate`` feeds them back."""
        config = self.inner(model).config
        expansion = self.expansion(model, sample)
        places = torch.nonzero(expansion.mask[0]).reshape(-1)
        ids, raw = expansion.ids[0, places].tolist(), expansion.origin[0, places].tolist()
        is_reference = [number for number, token in enumerate(ids) if token == config.audio_in_token_idx]
        start = max(len(ids) - steps, 1, *(number + 1 for number in is_reference[-1:]))
        if start >= len(ids):
            raise CannotDecodeError("nothing follows the last reference audio")
        frame = sum(token == config.audio_out_token_idx for token in ids[:start])
        out = step_of(model, **_prefix(sample, raw[start - 1] + 1, frame))
        yield Step("text", int(places[start - 1]), out.logits[0, -1])
        audio_mask = out.audio_in_discrete_codes_mask | out.audio_out_mask
        for number in range(start, len(ids)):
            given: Batch = {"input_ids": sample["input_ids"][:, raw[number] : raw[number] + 1]}
            is_frame = ids[number] == config.audio_out_token_idx
            if is_frame:
                given["audio_out_ids"] = sample["audio_out_ids"][:, frame : frame + 1]
                given["audio_out_ids_start"] = sample["audio_out_ids_start"].new_zeros(1)
            out = step_of(
                model,
                **given,
                attention_mask=torch.ones_like(given["input_ids"]),
                past_key_values=out.past_key_values,
                cache_audio_discrete_codes_mask=audio_mask,
                use_cache=True,
            )
            audio_mask = torch.cat([audio_mask, out.audio_in_discrete_codes_mask | out.audio_out_mask], dim=1)
            yield Step("text", int(places[number]), out.logits[0, -1])
            if is_frame:
                yield Step("audio", frame, out.audio_logits[-1])
                frame += 1

    def lora_targets(self, model: nn.Module) -> str:
        """Attention projections of the body, and the audio feed-forward layers where it has them."""
        return LORA_TARGETS


def _prefix(sample: Batch, columns: int, frames: int) -> Batch:
    """The first raw columns of a sample with the frames that stand in them, to fill the cache with."""
    given: Batch = {key: sample[key][:, :columns] for key in ("input_ids", "attention_mask")}
    given |= {key: sample[key] for key in sample if key.startswith(("audio_in_", "audio_feature"))}
    if frames:
        starts = sample["audio_out_ids_start"]
        given["audio_out_ids"] = sample["audio_out_ids"][:, :frames]
        given["audio_out_ids_start"] = starts[starts < frames]
    return {**given, "use_cache": True}


def _trimmed(sample: Batch) -> Batch:
    """One sample without the padding of its collation: the model's own remains."""
    mask = sample.get("attention_mask")
    if mask is None:
        return sample
    real = mask[0].bool()
    return {**sample, **{key: sample[key][:, real] for key in TEXT_KEYS if sample.get(key) is not None}}


def _doubled(sample: Batch) -> Batch:
    """One sample, and once more with ``MORE`` tokens after it."""
    out = dict(sample)
    ids = sample["input_ids"]
    longer = ids[:, -1:].expand(1, MORE)
    more = {"input_ids": longer, "label_ids": torch.full_like(longer, IGNORE_INDEX)}
    for key, value in {"attention_mask": torch.ones_like(ids), **sample}.items():
        if key in TEXT_KEYS and value is not None:
            first = F.pad(value, (0, MORE), value=IGNORE_INDEX if key == "label_ids" else 0)
            out[key] = torch.cat([first, torch.cat([value, more.get(key, torch.ones_like(longer))], dim=1)])
        elif isinstance(value, Tensor):
            out[key] = torch.cat([value, value + _shift(key, sample)], dim=1 if key in CODES else 0)
    return out


def _shift(key: str, sample: Batch) -> int:
    """By how much the numbers of a second copy are larger: starts count frames, group locations samples."""
    if key.endswith("_start"):
        return int(sample[key.removesuffix("_start")].shape[1])
    return int(key.endswith("_group_loc"))
