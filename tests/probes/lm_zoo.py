"""Every transformers class with an output head, small and random, and what its own loss trains.

Sizes are found by name: every size that a configuration class has is set, in its parts as well. What a
class needs beyond that stands in ``SPECIAL``. The answer is +1 unless ``DEVIATES`` says otherwise, with
the reason; a class that cannot run here stands in ``NOT_RUN``, with the reason.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch
import transformers
from transformers.models.auto import modeling_auto

VOCAB, HIDDEN, BATCH, LENGTH = 96, 32, 2, 24
BOS, EOS, PAD = 1, 2, 0

#: Refuse to build more than this many parameters: a size that was not found by its name.
LARGEST = 8_000_000

SIZES = {
    # widths
    **dict.fromkeys(
        "hidden_size n_embd d_model dim embedding_size embed_dim emb_dim word_embed_proj_dim vision_dim "
        "intermediate_size ffn_dim d_ff ffn_hidden_size encoder_ffn_dim decoder_ffn_dim mlp_hidden_size "
        "attention_hidden_size projection_dim out_hidden_size cross_attention_hidden_size".split(),
        HIDDEN,
    ),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size".split(), 16),
    **dict.fromkeys(
        "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim qk_head_dim index_head_dim d_kv q_lora_rank "
        "kv_lora_rank state_size mamba_d_state index_topk hidden_size_per_layer_input patch_size".split(),
        8,
    ),
    "rotary_dim": 4,
    "mamba_d_head": 16,
    # depths and heads
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers depth".split(), 2),
    **dict.fromkeys(
        "encoder_layers decoder_layers num_decoder_layers num_encoder_layers encoder_num_hidden_layers "
        "decoder_num_hidden_layers first_k_dense_replace num_dense_layers n_group topk_group n_shared_experts "
        "moe_num_shared_experts".split(),
        1,
    ),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads mamba_n_heads".split(), 4),
    **dict.fromkeys(
        "encoder_attention_heads decoder_attention_heads num_key_value_heads encoder_num_attention_heads "
        "decoder_num_attention_heads num_encoder_attention_heads num_decoder_attention_heads n_mamba_heads "
        "index_n_heads mamba_d_conv num_experts_per_tok moe_k moe_topk zero_expert_num".split(),
        2,
    ),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts moe_num_experts".split(), 4),
    "num_kv_shared_layers": 0,
    # lengths
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_sequence_length".split(), 128),
    **dict.fromkeys("max_source_positions max_target_positions".split(), 64),
    "image_size": 16,
    # ids
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "sep_token_id": EOS,
    "decoder_start_token_id": BOS,
    # switches
    "use_cache": False,
    "is_decoder": True,
}

_START = {"decoder_start_token_id": PAD}
_ROPE_SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_GLM_ROPE = {"rope_parameters": {**_ROPE_SECTIONS["rope_parameters"], "partial_rotary_factor": 1.0}}

#: Further arguments, by configuration class.
SPECIAL = {
    "AXK2Config": {"num_key_value_heads": 4},
    "Blip2Config": {"image_token_index": 3, "num_query_tokens": 2},
    "DbrxConfig": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "DeepseekV32Config": {"num_key_value_heads": 4},
    "Dots3NoteTextConfig": {"num_key_value_heads": 4},
    "FSMTConfig": {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB, "langs": ["en", "de"]},
    "Florence2VisionConfig": {
        "embed_dim": (16, 16),
        "depths": (1, 1),
        "num_heads": (2, 2),
        "num_groups": (2, 2),
        "patch_size": (3, 3),
        "patch_stride": (4, 2),
        "patch_padding": (1, 1),
        "patch_prenorm": (False, True),
        "window_size": 2,
    },
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "GitVisionConfig": {"num_channels": 3},
    "Glm4vTextConfig": _GLM_ROPE,
    "Glm4vMoeTextConfig": _GLM_ROPE,
    "Glm46VTextConfig": _GLM_ROPE,
    "GlmOcrTextConfig": _GLM_ROPE,
    "GlmMoeDsaConfig": {"num_key_value_heads": 4},
    "JambaConfig": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"]},
    "LongT5Config": _START,
    "LongcatFlashConfig": {"num_key_value_heads": 4, "qk_head_dim": 16},
    "Mamba2Config": {"num_heads": 8, "n_groups": 2, "chunk_size": 8},
    "MoshiConfig": {"ffn_dim": 64, "num_codebooks": 2, "audio_vocab_size": VOCAB},
    "MoshiDepthConfig": {"ffn_dim": 64, "num_codebooks": 2, "input_size": HIDDEN, "audio_vocab_size": VOCAB},
    "PaddleOCRTextConfig": _ROPE_SECTIONS,
    "Pop2PianoConfig": _START,
    "ProphetNetConfig": {"ngram": 1},
    "Qwen2AudioConfig": {"audio_token_index": 4},
    "Qwen2AudioEncoderConfig": {"max_source_positions": 16},
    "Qwen2VLTextConfig": _ROPE_SECTIONS,
    "Qwen2_5_VLTextConfig": _ROPE_SECTIONS,
    "ReformerConfig": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "attention_head_size": 8,
        "feed_forward_size": HIDDEN,
        "local_attn_chunk_length": 12,
        "max_position_embeddings": 48,
    },
    "RoCBertConfig": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8},
    "SwitchTransformersConfig": _START,
    "T5Config": _START,
    "UdopConfig": _START,
    "VoxtralEncoderConfig": {"max_source_positions": 16, "intermediate_size": 4 * HIDDEN, "num_mel_bins": 8},
    "WhisperConfig": {"num_mel_bins": 8},
    "XLMConfig": {"causal": True},
    "XmodConfig": {"default_language": "en_XX"},
    "Zamba2Config": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 4, "mamba_headdim": 16},
    "ZayaConfig": {"num_experts_per_tok": 1},
    "xLSTMConfig": {"mode": "train", "num_blocks": 2, "num_heads": 2, "chunk_size": 8},
}

_DECODER_ALONE = "the decoder of an encoder-decoder family, used alone: its loss pairs logits and labels as they stand"
#: Classes whose loss, handed labels that are the input ids, does not train the next token: offset and reason.
DEVIATES = {
    **dict.fromkeys(
        "BartForCausalLM BigBirdPegasusForCausalLM BlenderbotForCausalLM BlenderbotSmallForCausalLM "
        "MBartForCausalLM MarianForCausalLM MvpForCausalLM PLBartForCausalLM PegasusForCausalLM "
        "ProphetNetForCausalLM TrOCRForCausalLM WhisperForCausalLM XLMProphetNetForCausalLM "
        "Speech2Text2ForCausalLM".split(),
        (0, _DECODER_ALONE),
    ),
    "CpmAntForCausalLM": (0, "its loss pairs logits and labels as they stand"),
    "XLMWithLMHeadModel": (0, "a masked language model first: its loss pairs logits and labels as they stand"),
    "XLNetLMHeadModel": (0, "permutation language modelling: labels belong to target_mapping, not to the next token"),
}


def _part_class(config_class, name, default):
    """The class of one part of a configuration; an automatic one is that of the default."""
    part = config_class.sub_configs[name]
    return type(getattr(default, name, None)) if part.__name__ == "AutoConfig" else part


def tiny_config(config_class, **extra):
    """A configuration with every size that is found by its name set small, parts included."""
    extra = {**SPECIAL.get(config_class.__name__, {}), **extra}
    accepted = inspect.signature(config_class.__init__).parameters
    chosen = {key: value for key, value in SIZES.items() if key in accepted}
    parts = [name for name in getattr(config_class, "sub_configs", None) or {} if name not in extra]
    default = config_class() if parts else None
    for name in parts:
        part = _part_class(config_class, name, default)
        if hasattr(part, "model_type"):
            chosen[name] = tiny_config(part).to_dict()
    return config_class(**{**chosen, **extra})


def tiny_model(name, **extra):
    """A small random instance of a transformers class, in train mode; the global random state stays."""
    model_class = getattr(transformers, name)
    config = tiny_config(model_class.config_class, **extra)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise MemoryError(f"{name} would have {size} parameters: a size is missing in SIZES or SPECIAL")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).train()


# -- batches ------------------------------------------------------------------------------------------


def _noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _text():
    """Ids that occur once in the whole batch, a prompt without labels, a label at the last position."""
    order = torch.randperm(VOCAB - 20, generator=torch.Generator().manual_seed(0)) + 20
    ids = order[: BATCH * LENGTH].reshape(BATCH, LENGTH)
    labels = ids.clone()
    labels[:, :6] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _with_placeholders(token, count, **features):
    """A text batch in which ``count`` ids per sample stand for another modality's frames."""
    batch = _text()
    batch["input_ids"][:, 2 : 2 + count] = token
    return {**batch, **features}


def _instead(**features):
    """Another input of the encoder, and labels."""
    return {**features, "labels": _text()["labels"]}


_IMAGES = {"pixel_values": _noise(BATCH, 3, 16, 16)}

#: How the batch of a class is made, where it is not text alone.
BATCHES = {
    "BlipForConditionalGeneration": lambda: {**_text(), **_IMAGES},
    "Blip2ForConditionalGeneration": lambda: _with_placeholders(3, 2, **_IMAGES),
    "LlavaForConditionalGeneration": lambda: _with_placeholders(3, 4, **_IMAGES),
    "MoonshineForConditionalGeneration": lambda: _instead(input_values=_noise(BATCH, 6000)),
    "Pix2StructForConditionalGeneration": lambda: _instead(flattened_patches=_noise(BATCH, 4, 2 + HIDDEN).abs()),
    "Qwen2AudioForConditionalGeneration": lambda: _with_placeholders(
        4, 8, input_features=_noise(BATCH, 128, 32), feature_attention_mask=torch.ones(BATCH, 32, dtype=torch.long)
    ),
    "Speech2TextForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 40, 80)),
    "SpeechEncoderDecoderModel": lambda: _instead(input_values=_noise(BATCH, 2000)),
    "VisionEncoderDecoderModel": lambda: _instead(**_IMAGES),
    "VoxtralForConditionalGeneration": lambda: _with_placeholders(4, 4, input_features=_noise(BATCH, 8, 32)),
    "WhisperForConditionalGeneration": lambda: _instead(input_features=_noise(BATCH, 8, 128)),
}


def batch_for(name):
    """A fresh batch for a class."""
    return BATCHES.get(name, _text)()


def all_classes():
    """Every class of transformers' own lists of models that generate text, once each."""
    lists = (
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    )
    names = dict.fromkeys(name for one in lists for name in getattr(modeling_auto, one, {}).values())
    return [name for name in names if isinstance(name, str)]
