"""Small batches for the classes of lm_zoo: text, or whatever else a class has to be given."""

from __future__ import annotations

import torch
from lm_tiny import BATCH, HIDDEN, LENGTH, VOCAB

__all__ = ["batch_for", "prefix_batch", "sequence_batch", "text_batch"]


def _each(names, make):
    return dict.fromkeys(names.split(), make)


def _noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def text_batch():
    """Ids that occur once in the whole batch, a prompt without labels, a label at the last position."""
    order = torch.randperm(VOCAB - 20, generator=torch.Generator().manual_seed(0)) + 20
    ids = order[: BATCH * LENGTH].reshape(BATCH, LENGTH)
    labels = ids.clone()
    labels[:, :6] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _with_placeholders(token, count, **features):
    """A text batch in which ``count`` ids per sample stand for another modality's frames."""
    batch = text_batch()
    batch["input_ids"][:, 2 : 2 + count] = token
    batch["labels"][:, : 2 + count] = -100
    return {**batch, **features}


def _with_types(batch):
    """With the mark of what is an image that Gemma 3 asks for in training."""
    return {**batch, "token_type_ids": (batch["input_ids"] == 3).long()}


def _with_prefix(batch):
    """With the mark of the suffix that PaliGemma asks for in training: what comes before it sees itself whole."""
    return {**batch, "token_type_ids": (batch["labels"] != -100).long()}


def _instead(**features):
    """Another input of the encoder, and labels."""
    return {**features, "labels": text_batch()["labels"]}


def _patches(count, *, spatial=2, size=3 * 2 * 8 * 8):
    """Two images as flat patches, ``count`` placeholders each once ``spatial`` x ``spatial`` patches are merged."""
    grid = torch.tensor([[1, spatial, spatial * count]]).repeat(BATCH, 1)
    return _with_placeholders(
        3,
        count,
        pixel_values=_noise(int(grid.prod(1).sum()), size),
        image_grid_thw=grid,
        mm_token_type_ids=(text_batch()["input_ids"] * 0).index_fill_(1, torch.arange(2, 2 + count), 1),
    )


def _patches_alone(count):
    """The same for models that find the images among the ids by themselves."""
    batch = _patches(count)
    del batch["mm_token_type_ids"]
    return batch


_PIXELS = _noise(BATCH, 3, 16, 16)
_IMAGES = {"pixel_values": _PIXELS}
_SIZES = torch.tensor([[16, 16]] * BATCH)
_MEL = {"input_features": _noise(BATCH, 8, 32)}

#: How the batch of a class is made, where it is not text alone.
BATCHES = {
    # an image in place of some ids
    **_each(
        "LlavaForConditionalGeneration VipLlavaForConditionalGeneration",
        lambda: _with_placeholders(3, 4, **_IMAGES),
    ),
    "PaliGemmaForConditionalGeneration": lambda: _with_prefix(_with_placeholders(3, 4, **_IMAGES)),
    "Gemma3ForConditionalGeneration": lambda: _with_types(_with_placeholders(3, 4, **_IMAGES)),
    **_each(
        "InternVLForConditionalGeneration AyaVisionForConditionalGeneration Cohere2VisionForConditionalGeneration "
        "GotOcr2ForConditionalGeneration",
        lambda: _with_placeholders(3, 1, **_IMAGES),
    ),
    **_each(
        "Idefics3ForConditionalGeneration SmolVLMForConditionalGeneration",
        lambda: _with_placeholders(3, 1, pixel_values=_PIXELS[:, None]),
    ),
    "Mistral3ForConditionalGeneration": lambda: _with_placeholders(3, 1, **_IMAGES, image_sizes=_SIZES),
    "Molmo2ForConditionalGeneration": lambda: {**text_batch(), "mm_token_type_ids": 0 * text_batch()["input_ids"]},
    "InstructBlipForConditionalGeneration": lambda: {
        **_with_placeholders(3, 2, **_IMAGES),
        "qformer_input_ids": text_batch()["input_ids"],
    },
    "InstructBlipVideoForConditionalGeneration": lambda: {
        **_with_placeholders(5, 4, pixel_values=_noise(BATCH, 2, 3, 16, 16)),
        "qformer_input_ids": text_batch()["input_ids"],
    },
    "Blip2ForConditionalGeneration": lambda: _with_placeholders(3, 2, **_IMAGES),
    **_each(
        "Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration Qwen3VLForConditionalGeneration "
        "Qwen3VLMoeForConditionalGeneration Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration",
        lambda: _patches(2),
    ),
    # an image beside the ids
    "IdeficsForVisionText2Text": lambda: {
        **text_batch(),
        "pixel_values": _PIXELS[:, None],
        "image_attention_mask": torch.ones(BATCH, LENGTH, 1).long(),
    },
    "Kosmos2ForConditionalGeneration": lambda: {
        **text_batch(),
        **_IMAGES,
        "image_embeds_position_mask": torch.zeros(BATCH, LENGTH).index_fill_(1, torch.arange(1, 5), 1).bool(),
    },
    "BlipForConditionalGeneration": lambda: {**text_batch(), **_IMAGES},
    # audio in place of some ids
    "Qwen2AudioForConditionalGeneration": lambda: _with_placeholders(
        4,
        8,
        input_features=_noise(BATCH, 128, 32),
        feature_attention_mask=torch.ones(BATCH, 32, dtype=torch.long),
    ),
    "VoxtralForConditionalGeneration": lambda: _with_placeholders(4, 4, **_MEL),
    # audio beside every id
    "VoxtralRealtimeForConditionalGeneration": lambda: {
        **text_batch(),
        "encoder_inputs_embeds": _noise(BATCH, 4 * LENGTH, HIDDEN),
        "num_delay_tokens": 2,
    },
    # an encoder of something else than text
    **_each(
        "CohereAsrForConditionalGeneration CanaryForConditionalGeneration",
        lambda: _instead(input_features=_noise(BATCH, 64, 80), attention_mask=torch.ones(BATCH, 64).bool()),
    ),
    "MoonshineStreamingForConditionalGeneration": lambda: _instead(input_values=_noise(BATCH, 6400)),
    "SpeechT5ForSpeechToText": lambda: _instead(input_values=_noise(BATCH, 6000)),
    **_each(
        "SeamlessM4TForSpeechToText SeamlessM4Tv2ForSpeechToText",
        lambda: _instead(input_features=_noise(BATCH, 24, 160)),
    ),
    "MoonshineForConditionalGeneration": lambda: _instead(input_values=_noise(BATCH, 6000)),
    "Pix2StructForConditionalGeneration": lambda: _instead(flattened_patches=_noise(BATCH, 4, 2 + HIDDEN).abs()),
    "Speech2TextForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 40, 80)),
    "SpeechEncoderDecoderModel": lambda: _instead(input_values=_noise(BATCH, 2000)),
    **_each(
        "UdopForConditionalGeneration",
        lambda: {**text_batch(), "bbox": torch.zeros(BATCH, LENGTH, 4).long(), **_IMAGES},
    ),
    "PPFormulaNetForConditionalGeneration": lambda: {  # it shifts input_ids where these are not given
        **_instead(**_IMAGES),
        "decoder_input_ids": text_batch()["input_ids"].roll(1, 1),
    },
    "VisionEncoderDecoderModel": lambda: _instead(**_IMAGES),
    "WhisperForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 8, 128)),
}


def batch_for(name):
    """A fresh batch for a class."""
    return BATCHES.get(name, text_batch)()


def sequence_batch(name):
    """The same for an encoder-decoder model, whose labels are trained from their first on."""
    batch = batch_for(name)
    ids = text_batch()["input_ids"]
    batch["labels"] = ids.flip(0, 1)
    return batch


def prefix_batch():
    """For PaliGemma without an image."""
    return _with_prefix(text_batch())
