"""transformers' own Higgs Audio v2 (``HiggsAudioV2ForConditionalGeneration``, 5.x): heads, streams, loading.

Every audio frame stands at a position of its own, so text and audio have the same rows: all positions of the
batch. The model computes its loss itself: it lays the labels of the frames over the positions and shifts them as
it shifts those of the text (modeling_higgs_audio_v2.py, lines 739 to 759 of transformers 5.23.0).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, DualLoss, InputError, Stream
from alignment.loss import codebook_loss, text_loss
from alignment.pairing import Policy
from alignment.streams import NO_TOKEN

from ..errors import CannotRunError
from .adapter import Batch, Head, View, find_instance
from .checkpoint import from_folder
from .frames import audio_documents
from .higgs import SPECIAL_IDS, ends_of, ordinary_ids
from .higgs_batch import check_v2_batch
from .higgs_v2_runs import HiggsAudioV2Runs
from .reading import document_numbers, padding_mask
from .renaming import labels_follow
from .stream_entries import read_streams
from .streams import StreamsAdapter

__all__ = ["SPECIAL_IDS_V2", "HiggsAudioV2Adapter", "load", "small_model", "why_unavailable"]

CLASS = "HiggsAudioV2ForConditionalGeneration"
#: As the published tokenizer names them; frames that the delay pattern appends have a placeholder of their own.
SPECIAL_IDS_V2 = {
    **{name: index for name, index in SPECIAL_IDS.items() if name != "<|recipient|>"},
    "<|reserved_special_token_6|>": 128014,
}
INSTALL = "pip install 'transformers>=5.23'"
#: Labels of the text: position-aligned, or moved one step by whoever splits sequences.
TEXT_LABELS = ("labels", "shift_labels")
HEADLESS = "the model has no text head (use_text_head=False): text labels train nothing"


def why_unavailable() -> str | None:
    """Why the model cannot be used here, with the line that installs it; None if it can."""
    if importlib.util.find_spec("transformers.models.higgs_audio_v2") is None:
        return f"this transformers has no {CLASS}: {INSTALL}"
    return None


def small_config(hidden: int = 64, layers: int = 2) -> Any:
    """A small configuration with the true vocabulary, special ids and codebooks."""
    return _require().HiggsAudioV2Config(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=4096,
        codebook_size=1026,  # as the published checkpoint: 1024 codes, bos and eos
    )


def small_model(
    *, seed: int = 0, hidden: int = 64, layers: int = 2, use_text_head: bool = True, config: Any = None
) -> nn.Module:
    """A small randomly initialised instance, by default of ``small_config``, in train mode.

    Raises:
        CannotRunError: this transformers does not have the model.
    """
    package, config = _require(), config or small_config(hidden, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return package.HiggsAudioV2ForConditionalGeneration(config, use_text_head=use_text_head).train()


def load(path: str | Path, dtype: torch.dtype | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a checkpoint, with its text head where it has one, and say what it lacks: safetensors only, no remote code.

    Raises:
        CannotRunError: this transformers does not have the model.
        OSError: no such checkpoint, or it has no safetensors.
    """
    family = _require().HiggsAudioV2ForConditionalGeneration
    wanted = {"dtype": "auto" if dtype is None else dtype}
    model, missing = from_folder(family, str(path), use_text_head=True, **wanted)
    if any(name.startswith("text_lm_head") for name in missing):
        return from_folder(family, str(path), use_text_head=False, **wanted)
    return model, missing


def _require() -> Any:
    reason = why_unavailable()
    if reason is not None:
        raise CannotRunError(reason)
    return importlib.import_module("transformers")


# -- its streams ---------------------------------------------------------------------------------------


def _declared(inner: Any) -> Mapping[str, Any]:
    """Text over all positions, and each codebook's code of a frame where that stands; both are shifted inside."""
    config = inner.config
    text = {
        "head": "text_lm_head",
        "ids": "input_ids",
        "labels": _text_labels,
        "documents": lambda batch: document_numbers(batch, batch["input_ids"]),
        "fillers": _placeholders(config),
        "ends": ends_of(inner, config.vocab_size),
        "vocabulary": config.vocab_size,
    }
    book = {
        "head": "audio_lm_head",
        "count": config.num_codebooks,
        "ids": partial(_laid_out, config, "audio_input_ids", NO_TOKEN),
        "labels": partial(_laid_out, config, "audio_labels", IGNORE_INDEX),
        "documents": lambda batch: audio_documents(batch, config.vocab_size, _placeholders(config)),
        "fillers": config.audio_stream_bos_id,
        "ends": config.audio_stream_eos_id,
        "vocabulary": config.codebook_size,
    }
    padding = {"padding": lambda batch: padding_mask(batch.get("attention_mask"), batch["input_ids"])}
    return {"text": text | padding, "audio[{k}]": book | padding}


def _placeholders(config: Any) -> tuple[int, int]:
    return config.audio_token_id, config.audio_delay_token_id


def _text_labels(batch: Mapping[str, Any]) -> Tensor | None:
    return next((batch[key] for key in TEXT_LABELS if batch.get(key) is not None), None)


def _valid(batch: Mapping[str, Any], key: str) -> Tensor:
    """(B, F) bool: the frames of ``key`` that are no padding."""
    frames, mask = batch[key], batch.get("audio_input_ids_mask")
    if frames.dim() != 3 or (mask is not None and mask.shape != frames.shape[:2]):
        beside = "" if mask is None else f", audio_input_ids_mask {tuple(mask.shape)}"
        raise InputError(f"{key} has shape {tuple(frames.shape)}{beside}: they must be (B, F, K) and (B, F)")
    return torch.ones_like(frames[..., 0], dtype=torch.bool) if mask is None else mask.bool()


def _laid_out(config: Any, key: str, fill: int, batch: Mapping[str, Any]) -> Tensor | None:
    """(B, T, K) int64: what ``key`` (B, F, K) holds of each frame, at the position where the frame stands.

    Raises:
        InputError: more or fewer frames than placeholders.
    """
    ids, given = batch["input_ids"], batch.get(key)
    if given is None:
        return None
    valid, frame = _valid(batch, key), torch.isin(ids, torch.tensor(_placeholders(config)).to(ids))
    if int(valid.sum()) != int(frame.sum()):
        raise InputError(
            f"{key} has {int(valid.sum())} frames for {int(frame.sum())} audio placeholders in input_ids: "
            "the processor writes one placeholder per frame"
        )
    out = ids.new_full((*ids.shape, given.shape[-1]), fill, dtype=torch.long)
    out[frame] = given[valid].to(out)
    return out


class HiggsAudioV2Adapter(HiggsAudioV2Runs, StreamsAdapter):
    """A text head (where there is one) and an audio head, both over all positions.

    Codebook k's row at a position has read the code of the frame that stands there, if one does. A segment of an
    audio stream reaches from the end of one audio to the end of the next: the row before the first frame belongs
    to it, as it is that row which predicts the frame.

    Args:
        model: wrapped or not.
    """

    name = f"transformers.{CLASS}"
    id_keys, label_keys = ("input_ids",), (*TEXT_LABELS, "audio_labels")
    special_ids: Mapping[str, int] = SPECIAL_IDS_V2

    def __init__(self, model: nn.Module) -> None:
        text, book = read_streams(_declared(self.inner(model)), self.name)
        super().__init__([text, *(book.bound(number) for number in range(book.count or 0))])
        self._mute = StreamsAdapter([text])  # a batch without audio has no other stream

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether ``model`` is, or wraps, transformers' own Higgs v2."""
        return find_instance(model, CLASS, "transformers") is not None

    def inner(self, model: nn.Module) -> Any:
        """The ``HiggsAudioV2ForConditionalGeneration`` below any wrapper."""
        inner = find_instance(model, CLASS, "transformers")
        if inner is None:
            raise InputError(f"{type(model).__name__} holds no {CLASS}")
        return inner

    def body(self, model: nn.Module) -> nn.Module | None:
        """The base model: both heads read its output."""
        return self.inner(model).model

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """The heads that exist, LoRA-wrapped or not."""
        inner = self.inner(model)
        books = tuple(range(1, len(view.streams)))
        heads = [Head("text", inner.text_lm_head, (0,))] if inner.text_lm_head is not None else []
        return (*heads, Head("audio", inner.audio_lm_head, books)) if books else tuple(heads)

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward with the logits of both heads: the model hands back those of its audio head alone."""
        inner = self.inner(model)
        audio_logits, hidden, cache = self.audio_outputs(model, kwargs)
        return SimpleNamespace(
            logits=None if inner.text_lm_head is None else inner.text_lm_head(hidden),  # (B, T, V)
            audio_logits=audio_logits,
            past_key_values=cache,
        )

    def audio_outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Any]:
        """Audio logits (B * T, K, C) of a forward, what both heads read (B, T, H), and its cache.

        The model makes nothing of labels but a loss, and multiplies by the text head for it: it is given none.
        """
        inner, seen = self.inner(model), []
        with inner.model.register_forward_hook(lambda _m, _a, out: seen.append(out)):
            out = model(**self.without_labels(model, kwargs))
        config = inner.config
        audio_logits = out.logits.reshape(-1, config.num_codebooks, config.codebook_size)
        return audio_logits, seen[-1].last_hidden_state, out.past_key_values

    # -- the batch -------------------------------------------------------------------------------

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse a batch whose vocabulary, codebooks, special ids or delay pattern are not the checkpoint's."""
        valid = None if batch.get("audio_input_ids") is None else _valid(batch, "audio_input_ids")
        check_v2_batch(self.inner(model).config, batch, valid)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream over all positions, and one stream per codebook over the same rows.

        Raises:
            InputError: no ids, or frames and placeholders that do not fit each other.
        """
        view = self._mute.view(model, batch) if batch.get("audio_input_ids") is None else super().view(model, batch)
        text, *books = view.streams  # every audio begins with a filler: trained on that of the next, it has run into it
        view = replace(view, streams=(text, *(replace(book, placeholder_ids=()) for book in books)))
        if view.labels[0] is None or self.inner(model).text_lm_head is not None:
            return view
        return replace(view, labels=(None, *view.labels[1:]), notes=(HEADLESS,))

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """The engine's own loss: text and audio, each a mean over its targets, paired by evidence."""
        view = self.view(model, batch)
        audio_logits, decisions = outputs.audio_logits, [None, None]
        text = audio = audio_logits[:0].float().sum()
        if view.labels[0] is not None:
            text, decisions[0] = text_loss(outputs.logits, view.labels[0], view.streams[0], policy)
        if len(view.streams) > 1 and view.labels[1] is not None:
            labels = torch.stack(list(view.labels[1:]))  # (K, R)
            audio, decisions[1] = codebook_loss(audio_logits, labels, view.streams[1:], policy)
        return DualLoss(text, audio, text + audio, *decisions)

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ordinary ids of both heads: text ids below the reserved ones, codes below bos and eos."""
        inner = self.inner(model)
        ids = ordinary_ids(inner, inner.config.vocab_size)
        codes = min(inner.config.audio_stream_bos_id, inner.config.audio_stream_eos_id)
        return ids[ids < codes] if len(view.streams) > 1 else ids

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with ``ids`` at every ordinary position and frame; placeholders and padding stay."""
        streams = self._mute if len(view.streams) == 1 else super()
        out, shifted = streams.relabel(model, batch, view, ids, foreign), batch.get("shift_labels")
        if shifted is not None and batch.get("labels") is not None:  # the view has the others
            fresh = out["input_ids"].reshape(-1)
            renamed = labels_follow(shifted.reshape(-1).long(), view.streams[0], fresh, foreign)
            out["shift_labels"] = renamed.reshape(shifted.shape).to(shifted)
        return out

    def renamed(self, stream: Stream, ids: Tensor) -> Tensor:
        """The same; every code of a frame is renamed, the begin of an audio with the others."""
        return (
            torch.where(stream.ids < 0, stream.ids, ids.to(stream.ids))
            if stream.is_audio
            else super().renamed(stream, ids)
        )
