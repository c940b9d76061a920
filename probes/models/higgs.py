"""The released Higgs Audio v2 model (boson_multimodal 0.1.1): heads, streams, loading."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignment import DualLoss, Expansion, InputError, audio_streams, dual_loss, expand, text_stream
from alignment.expansion import lengths_from_starts, placeholder_lengths
from alignment.pairing import Policy

from ..errors import CannotRunError
from .adapter import Batch, Head, View, find_instance
from .checkpoint import from_folder
from .higgs_batch import check_released_batch
from .higgs_runs import HiggsRuns
from .renaming import one_sample_with_audio, raw_labels_follow
from .token_ids import end_ids, special_ids

__all__ = ["SPECIAL_IDS", "HiggsAdapter", "small_model", "why_unavailable"]

#: Special ids of the published checkpoint (its tokenizer's reserved tokens).
SPECIAL_IDS = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eom_id|>": 128008,
    "<|eot_id|>": 128009,
    "<|audio_bos|>": 128011,
    "<|audio_eos|>": 128012,
    "<|audio_out_bos|>": 128013,
    "<|recipient|>": 128014,
    "<|AUDIO|>": 128015,
    "<|AUDIO_OUT|>": 128016,
}
END_OF_TURN = (SPECIAL_IDS["<|eot_id|>"], SPECIAL_IDS["<|eom_id|>"])
#: Ids from here on are reserved in the published vocabulary.
FIRST_SPECIAL = 128000


def ends_of(model: nn.Module, vocabulary: int) -> tuple[int, ...]:
    """The ids that end a turn: the published ones; in a vocabulary without them, what the configuration names."""
    return END_OF_TURN if vocabulary > FIRST_SPECIAL else end_ids(model)


def ordinary_ids(model: nn.Module, vocabulary: int) -> Tensor:
    """(n,) the text ids below the reserved ones; in another vocabulary those that no configuration names."""
    ids = torch.arange(min(vocabulary, FIRST_SPECIAL))
    return ids if vocabulary > FIRST_SPECIAL else ids[~torch.isin(ids, torch.tensor(sorted(special_ids(model))))]


INSTALL = "pip install 'transformers>=4.45.1,<4.47' && pip install --no-deps boson-multimodal==0.1.1"


def why_unavailable() -> str | None:
    """Why the released model cannot be used here, with the line that installs it; None if it can."""
    if importlib.util.find_spec("boson_multimodal") is None:
        return f"the released Higgs model is not installed; it needs an environment of its own: {INSTALL}"
    try:
        importlib.import_module("boson_multimodal.model.higgs_audio")
    except ImportError as error:
        return f"the released Higgs model does not import ({error}); it needs: {INSTALL}"
    return None


def require() -> Any:
    """The released model's package.

    Raises:
        CannotRunError: it is not installed, or this transformers is too new for it.
    """
    reason = why_unavailable()
    if reason is not None:
        raise CannotRunError(reason)
    return importlib.import_module("boson_multimodal.model.higgs_audio")


def small_config(hidden: int = 64, layers: int = 2) -> Any:
    """A small configuration with the true vocabulary, special ids, codebooks and delay pattern."""
    package = require()
    from transformers import LlamaConfig

    text = LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=128001,
        bos_token_id=128000,
        eos_token_id=128009,
    )
    encoder = {
        "encoder_layers": 1,
        "d_model": hidden,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": hidden,
    }
    return package.HiggsAudioConfig(
        text_config=text,
        audio_encoder_config={**encoder, "model_type": "higgs_audio_encoder"},
        audio_adapter_type="dual_ffn_fast_forward",
        audio_dual_ffn_layers=list(range(0, layers, 2)),
        audio_ffn_hidden_size=hidden,
        audio_ffn_intermediate_size=2 * hidden,
        audio_num_codebooks=8,
        audio_codebook_size=1024,
        use_delay_pattern=True,
        skip_audio_tower=True,
        encode_audio_in_tokens=True,
        encode_whisper_embed=False,
        pad_token_id=128001,
    )


def small_model(*, seed: int = 0, hidden: int = 64, layers: int = 2, config: Any = None) -> nn.Module:
    """A small randomly initialised instance of the released model class, by default of ``small_config``, in train mode.

    Raises:
        CannotRunError: the released model cannot be imported here.
    """
    package = require()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return package.HiggsAudioModel(config or small_config(hidden, layers)).train()


def load(path: str | Path) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a checkpoint of the released model, and say what it lacks: safetensors only, no remote code.

    Raises:
        CannotRunError: the released model cannot be imported here.
        OSError: no such checkpoint, or it has no safetensors.
    """
    return from_folder(require().HiggsAudioModel, str(path), torch_dtype="auto")


class HiggsAdapter(HiggsRuns):
    """``HiggsAudioModel``: a text head over all positions, an audio head over the target frames."""

    name = "boson_multimodal.HiggsAudioModel"
    label_keys = ("label_ids",)
    special_ids: Mapping[str, int] = SPECIAL_IDS

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether ``model`` is, or wraps, the released model."""
        return find_instance(model, "HiggsAudioModel", "boson_multimodal") is not None

    def inner(self, model: nn.Module) -> Any:
        """The ``HiggsAudioModel`` below any wrapper."""
        inner = find_instance(model, "HiggsAudioModel", "boson_multimodal")
        if inner is None:
            raise InputError(f"{type(model).__name__} holds no HiggsAudioModel")
        return inner

    def body(self, model: nn.Module) -> nn.Module | None:
        """The final norm: both heads read its output."""
        return self.inner(model).norm

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """Text head and audio head, LoRA-wrapped or not."""
        projector = self.inner(model).audio_decoder_proj
        text = Head("text", projector.text_lm_head, (0,))
        books = tuple(range(1, len(view.streams)))
        return (text, Head("audio", projector.audio_lm_head, books)) if books else (text,)

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward."""
        return model(**kwargs)

    def expansion(self, model: nn.Module, batch: Mapping[str, Any]) -> Expansion:
        """Our own reference expansion of a batch (never the model's merge).

        Raises:
            InputError: placeholders and audios that do not fit each other.
        """
        inner = self.inner(model)
        config = inner.config
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        frames = {}
        reference = self._reference_lengths(inner, batch)
        if reference is not None:
            frames[config.audio_in_token_idx] = reference
        codes = batch.get("audio_out_ids")
        if codes is not None and codes.shape[-1] > 0:
            frames[config.audio_out_token_idx] = lengths_from_starts(batch["audio_out_ids_start"], codes.shape[-1])
        return expand(
            ids,
            torch.ones_like(ids) if mask is None else mask,
            placeholder_lengths(ids, frames),
            frames=(config.audio_in_token_idx, config.audio_out_token_idx),
            pad_id=config.pad_token_id,
            labels=batch.get("label_ids"),
            padding="left" if ids.shape[0] == 1 else "right",
        )

    @staticmethod
    def _reference_lengths(inner: Any, batch: Mapping[str, Any]) -> Tensor | None:
        """Frames per reference audio: its codes, its whisper features, or both."""
        lengths = None
        codes = batch.get("audio_in_ids")
        if inner.config.encode_audio_in_tokens and codes is not None and codes.shape[-1] > 0:
            lengths = lengths_from_starts(batch["audio_in_ids_start"], codes.shape[-1])
        features = batch.get("audio_feature_attention_mask")
        if not inner.config.skip_audio_tower and features is not None and len(features):
            _, whisper = inner.audio_tower._get_feat_extract_output_lengths(features.sum(-1))  # noqa: SLF001 - its only name
            lengths = whisper if lengths is None else lengths + whisper
        return lengths

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse a batch whose vocabulary, codebooks, special ids or delay pattern are not the checkpoint's."""
        check_released_batch(self.inner(model).config, batch)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream over the expanded positions, one stream per codebook over the target frames."""
        config = self.inner(model).config
        expansion = self.expansion(model, batch)
        text = text_stream(
            expansion.ids,
            config.text_config.vocab_size,
            mask=expansion.mask,
            placeholders=(config.audio_in_token_idx, config.audio_out_token_idx),
            end_ids=ends_of(self.inner(model), config.text_config.vocab_size),
        )
        streams, labels, carried = [text], [_flat(expansion.labels)], [_flat(expansion.carried)]
        codes = batch.get("audio_out_ids")
        if codes is not None and codes.shape[-1] > 0:
            owners = torch.nonzero(batch["input_ids"] == config.audio_out_token_idx)[:, 0]
            books = audio_streams(
                codes,
                batch["audio_out_ids_start"],
                config.audio_codebook_size + 2,
                samples=owners,
                bos=config.audio_stream_bos_id,
                eos=config.audio_stream_eos_id,
            )
            audio_labels = batch.get("label_audio_ids")
            streams.extend(books)
            labels.extend([None] * len(books) if audio_labels is None else list(audio_labels))
            carried.extend([None] * len(books))
        return View(tuple(streams), tuple(labels), tuple(carried))

    def dual(self, model: nn.Module, outputs: Any, batch: Batch, policy: Policy) -> DualLoss:
        """The engine's dual loss with the special ids of the model's own configuration."""
        config = self.inner(model).config
        return dual_loss(
            outputs,
            batch,
            policy=policy,
            audio_in_token=config.audio_in_token_idx,
            audio_out_token=config.audio_out_token_idx,
            pad_token=config.pad_token_id,
            audio_bos=config.audio_stream_bos_id,
            audio_eos=config.audio_stream_eos_id,
        )

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ordinary ids of every head: text ids below the reserved ones, codes below bos and eos."""
        inner = self.inner(model)
        ids = ordinary_ids(inner, inner.config.text_config.vocab_size)
        return ids[ids < inner.config.audio_codebook_size] if len(view.streams) > 1 else ids

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with ``ids`` at every ordinary position; placeholders and padding stay."""
        expansion = self.expansion(model, batch)
        raw = batch["input_ids"]
        keep = expansion.frame | (expansion.origin < 0)
        new = raw.clone()
        rows = torch.nonzero(~keep)
        new[rows[:, 0], expansion.origin[~keep]] = ids[0].reshape(keep.shape)[~keep].to(raw)
        out = dict(batch, input_ids=new)
        if batch.get("label_ids") is not None:
            out["label_ids"] = raw_labels_follow(batch["label_ids"], raw, new, foreign)
        codes, audio_labels = batch.get("audio_out_ids"), batch.get("label_audio_ids")
        if len(view.streams) > 1 and codes is not None:
            out["audio_out_ids"] = torch.stack(list(ids[1:])).to(codes)
            if audio_labels is not None:
                books = zip(audio_labels, codes, out["audio_out_ids"], strict=True)
                out["label_audio_ids"] = torch.cat(
                    [raw_labels_follow(*(row[None] for row in book), foreign) for book in books]
                )
        return out

    def without_labels(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch without ``label_ids``; the model is never given audio labels for a loss."""
        return {key: value for key, value in batch.items() if key not in self.label_keys}

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample, audios with the sample whose placeholders they fill."""
        config = self.inner(model).config
        places = {"in": config.audio_in_token_idx, "out": config.audio_out_token_idx}
        return [one_sample_with_audio(batch, index, places) for index in range(batch["input_ids"].shape[0])]


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.reshape(-1)
