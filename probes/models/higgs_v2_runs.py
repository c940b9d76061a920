"""transformers' own Higgs v2 run in other ways: padded otherwise, decoded step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Batch, CannotDecodeError, Layout, Step, View
from .decoding import step_of
from .text_runs import TextRuns

__all__ = ["HiggsAudioV2Runs"]

#: Attention projections, and the feed-forward layers of the audio path.
LORA_TARGETS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|audio_mlp\.(gate|up|down)_proj)"


class HiggsAudioV2Runs(TextRuns):
    """The part of the adapter that the checks of causality, padding, decoding and LoRA ask for.

    Frames lie beside the ids in tensors of their own length, which other padding of the ids leaves alone.
    """

    audio_outputs: Any

    def layout(self, model: nn.Module, batch: Batch, view: View) -> Layout:
        """Text and audio over the same positions."""
        text = view.streams[0]
        return Layout(tuple(stream.row for stream in view.streams), ("text", "audio"), text.filler.long())

    def decode(self, model: nn.Module, sample: Batch, steps: int) -> Iterator[Step]:
        """Text tokens and frames one by one; a frame is given without ids, as ``generate`` gives it.

        No step asks for the text logits of another: the head is multiplied once, for the rows of all.
        """
        ids, mask = sample["input_ids"], sample.get("attention_mask")
        real = torch.arange(ids.shape[1], device=ids.device) if mask is None else torch.nonzero(mask[0]).reshape(-1)
        if mask is not None and mask.shape != ids.shape:
            raise CannotDecodeError(f"a mask of shape {tuple(mask.shape)} is not decoded")
        inner = self.inner(model)
        config = inner.config
        tokens = ids[:, real]
        is_frame = ((tokens == config.audio_token_id) | (tokens == config.audio_delay_token_id))[0].tolist()
        frames = _frames(sample)
        start = max(len(real) - steps, 1)
        done = sum(is_frame[:start])
        given: Batch = {"input_ids": tokens[:, :start]}
        if done:
            given["audio_input_ids"] = frames[:, :done]
            given["audio_input_ids_mask"] = torch.ones((1, done), dtype=torch.bool, device=ids.device)
        cache = None
        read: list[Tensor] = []
        for end in range(start, len(real) + 1):
            given["attention_mask"] = ids.new_ones((1, end))
            step = {**given, "past_key_values": cache, "use_cache": True}
            audio, hidden, cache = step_of(self.audio_outputs, model=model, kwargs=step)
            read.append(hidden[:, -1:])
            yield Step("audio", int(real[end - 1]), audio[-1])
            if end == len(real):
                break
            if is_frame[end]:
                given = {"audio_input_ids": frames[:, done : done + 1]}
                done += 1
            else:
                given = {"input_ids": tokens[:, end : end + 1]}
        if inner.text_lm_head is not None:
            logits = step_of(lambda: inner.text_lm_head(torch.cat(read, 1)))
            for place, row in zip(real[start - 1 :].tolist(), logits[0], strict=True):
                yield Step("text", place, row)

    def lora_targets(self, model: nn.Module) -> str:
        """Attention projections, and the audio feed-forward layers."""
        return LORA_TARGETS


def _frames(sample: Batch) -> Tensor | None:
    """(1, F, K): the frames of one sample that are no padding."""
    frames, mask = sample.get("audio_input_ids"), sample.get("audio_input_ids_mask")
    return frames if frames is None or mask is None else frames[:, mask[0].bool()]
