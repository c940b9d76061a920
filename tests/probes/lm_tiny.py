"""Small random instances of transformers classes: every size of a configuration, found by its name."""

from __future__ import annotations

import inspect

import torch
import transformers

__all__ = ["BATCH", "HIDDEN", "LENGTH", "OLD", "VERSION", "VOCAB", "tiny_model"]

VOCAB, HIDDEN, BATCH, LENGTH = 96, 32, 2, 24
BOS, EOS, PAD = 1, 2, 0
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
#: Older than configurations that say which parts they have.
OLD = VERSION < (4, 47)


def _each(names, value):
    return dict.fromkeys(names.split(), value)


#: Refuse to build more than this many parameters: a size that was not found by its name.
LARGEST = 100_000_000

SIZES = {
    # widths
    **_each(
        "hidden_size n_embd d_model dim embedding_size embed_dim emb_dim word_embed_proj_dim vision_dim "
        "intermediate_size ffn_dim d_ff ffn_hidden_size encoder_ffn_dim decoder_ffn_dim mlp_hidden_size "
        "attention_hidden_size projection_dim out_hidden_size cross_attention_hidden_size",
        HIDDEN,
    ),
    **_each("moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size", 16),
    **_each(
        "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim qk_head_dim index_head_dim d_kv q_lora_rank "
        "kv_lora_rank state_size mamba_d_state index_topk hidden_size_per_layer_input patch_size",
        8,
    ),
    "rotary_dim": 4,
    "index_n_heads": 16,  # with few, scores of no head at all tie at zero, and ties are broken by the length
    "mamba_d_head": 16,
    # depths and heads
    **_each("num_hidden_layers n_layer n_layers num_layers depth", 2),
    **_each(
        "encoder_layers decoder_layers num_decoder_layers num_encoder_layers encoder_num_hidden_layers "
        "decoder_num_hidden_layers first_k_dense_replace num_dense_layers n_group topk_group n_shared_experts "
        "moe_num_shared_experts",
        1,
    ),
    **_each("num_attention_heads n_head n_heads num_heads mamba_n_heads", 4),
    **_each(
        "encoder_attention_heads decoder_attention_heads num_key_value_heads encoder_num_attention_heads "
        "decoder_num_attention_heads num_encoder_attention_heads num_decoder_attention_heads n_mamba_heads "
        "mamba_d_conv num_experts_per_tok moe_k moe_topk zero_expert_num",
        2,
    ),
    **_each("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    "num_kv_shared_layers": 0,
    # lengths
    **_each("max_position_embeddings n_positions n_ctx max_sequence_length", 128),
    **_each("max_source_positions max_target_positions", 64),
    "image_size": 16,
    # ids
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "sep_token_id": EOS,
    "decoder_start_token_id": BOS,
    **_each("image_token_id image_token_index", 3),
    **_each("audio_token_id audio_token_index", 4),
    **_each("video_token_id video_token_index", 5),
    **_each("vision_start_token_id vision_end_token_id", 6),
    # switches
    "use_cache": False,
    "is_decoder": True,
}

_START = {"decoder_start_token_id": PAD}
_IDS = {"pad_token_id": PAD, "decoder_start_token_id": BOS}
_CROSS = {"add_cross_attention": True, "is_decoder": True}
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
#: A map of image tokens to the ids that the vocabulary has for them, which no batch of text holds.
_IMAGE_IDS = {"<image>": 3, **{f"IMGIMG{letter}Z": 10 + number for number, letter in enumerate("ABCDEFGH")}}
_VISUAL_IDS = {"<image>": 3, "<|extra_200|>": 9, **{f"<|visual token {n:06d}|>": 10 + n for n in range(8)}}
_VQ = {"base_channels": 32, "num_res_blocks": 1}
_ROPE_KEY = "rope_scaling" if VERSION < (5,) else "rope_parameters"
_ROPE = {_ROPE_KEY: _SECTIONS}
_GLM_ROPE = {_ROPE_KEY: {**_SECTIONS, "partial_rotary_factor": 1.0}, "partial_rotary_factor": 1.0}

#: Further arguments, by configuration class.
SPECIAL = {
    **_each(
        "BailingHybridConfig GraniteMoeHybridConfig KimiLinearConfig Qwen3NextConfig Qwen3_5TextConfig "
        "Qwen3_5MoeTextConfig",
        _HYBRID,
    ),
    "BltConfig": {"encoder_hash_byte_group_vocab": 64},
    "BltLocalDecoderConfig": {"hidden_size_global": HIDDEN},
    "BambaConfig": {"attn_layer_indices": [1]},
    "MegaConfig": {"bidirectional": False},
    "Qwen4ExpTextConfig": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 2,
    },
    "RecurrentGemmaConfig": {"block_types": ["recurrent", "attention"]},
    **_each("Blip2Config InstructBlipConfig InstructBlipVideoConfig", {"num_query_tokens": 2}),
    "ChameleonConfig": {"vocabulary_map": _IMAGE_IDS},
    "ChameleonVQVAEConfig": {**_VQ, "channel_multiplier": [1]},
    "DeepseekOcr2TextConfig": {
        "mlp_layer_types": ["dense", "sparse"],
        "topk_method": "greedy",
        "n_group": None,
        "topk_group": None,
    },
    "Emu3Config": {"vocabulary_map": _VISUAL_IDS},
    "Emu3VQVAEConfig": {**_VQ, "channel_multiplier": [1, 1], "codebook_size": 8},
    "DbrxConfig": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2},
    },
    **_each("EncoderDecoderConfig.decoder VisionEncoderDecoderConfig.decoder", _CROSS),
    **dict.fromkeys(("EncoderDecoderConfig", "VisionEncoderDecoderConfig", "SpeechEncoderDecoderConfig"), _IDS),
    "SpeechEncoderDecoderConfig.decoder": _CROSS,
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
    "Gemma2Config": {"use_cache": OLD},  # transformers 4.46 fails to log that its cache is off
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"]},
    "Gemma3Config": {"mm_tokens_per_image": 4},
    "Granite4VisionConfig": {
        "deepstack_layer_map": [[-1, 0]],
        "downsample_rate": "1/2",
        "spatial_target_layers": [1],
    },
    "Granite4VisionConfig.vision_config": {"hidden_size": 64},
    "HunYuanVLTextConfig": {"rope_parameters": _SECTIONS},
    "Molmo2AdapterConfig": {"vision_feature_layer": [0, 1]},
    "Molmo2VisionConfig": {"image_size": [16, 16]},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "FalconH1Config": {"mamba_d_ssm": 64},
    "Kosmos2Config": {"latent_query_num": 4},
    "LlavaConfig": {"image_seq_length": 4},
    "Pix2StructVisionConfig": {"patch_embed_hidden_size": HIDDEN},
    "Step3p7TextConfig": {"sliding_window": 8},
    "Wav2Vec2Config": {"apply_spec_augment": False},
    "PerceptionLMConfig.vision_config": {"model_args": {"embed_dim": HIDDEN}},
    "PPFormulaNetVisionConfig": {
        "decoder_hidden_size": HIDDEN,
        "mlp_dim": HIDDEN,
        "post_conv_mid_channels": HIDDEN,
        "post_conv_out_channels": HIDDEN,
    },
    "ZambaConfig": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 16,
        "use_mamba_kernels": False,
    },
    "Cosmos3EdgeTextConfig": _ROPE,
    "Ernie4_5_VLMoeTextConfig": {**_ROPE, "moe_intermediate_size": [16, 16]},
    "FunAsrNanoAdaptorConfig": {"intermediate_size": HIDDEN // 4},
    "Glm4vTextConfig": _GLM_ROPE,
    "Glm5NextTextConfig": {"index_kpool": 4, "qk_rope_head_dim": 0},
    "Inkling2VisionConfig": {"text_hidden_size": HIDDEN},
    **_each(
        "VibeVoiceAcousticTokenizerConfig VibeVoiceAcousticTokenizerEncoderConfig "
        "VibeVoiceAcousticTokenizerDecoderConfig",
        {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1]},
    ),
    "Glm4vMoeTextConfig": _GLM_ROPE,
    "Glm46VTextConfig": _GLM_ROPE,
    "GlmOcrTextConfig": _GLM_ROPE,
    "JambaConfig": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "Lfm3Config": {"layer_types": ["conv", "full_attention"]},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"]},
    "KyutaiSpeechToTextConfig": {"num_codebooks": 2, "codebook_vocab_size": 32, "audio_pad_token_id": 8, "ffn_dim": 64},
    "Llama4TextConfig": {"intermediate_size_mlp": HIDDEN, "no_rope_layers": [1, 0]},
    "LongT5Config": _START,
    "LongcatFlashConfig": {"qk_head_dim": 16},
    "Mamba2Config": {"num_heads": 8, "n_groups": 2, "chunk_size": 8},
    "MimiConfig": {"upsample_groups": HIDDEN},
    "MllamaTextConfig": {_ROPE_KEY: {"rope_type": "default", "rope_theta": 1e4}, "cross_attention_layers": [1]},
    "MoonshineConfig": {"pad_token_id": PAD},
    "MoonshineStreamingConfig": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "MoshiConfig": {"ffn_dim": 64, "num_codebooks": 2, "audio_vocab_size": VOCAB},
    "MoshiDepthConfig": {"ffn_dim": 64, "num_codebooks": 2, "input_size": HIDDEN, "audio_vocab_size": VOCAB},
    **_each("MusicgenDecoderConfig MusicgenMelodyDecoderConfig", {"num_codebooks": 1}),
    "OpenLlamaConfig": {"shared_input_output_embedding": False},
    "PaddleOCRTextConfig": _ROPE,
    "Pop2PianoConfig": _START,
    "Qwen2AudioEncoderConfig": {"max_source_positions": 16},
    **_each("Qwen2VLTextConfig Qwen2_5_VLTextConfig Qwen3VLTextConfig Qwen3VLMoeTextConfig", _ROPE),
    **_each("Qwen2_5OmniTextConfig Qwen3OmniMoeTextConfig", _ROPE),
    **_each("Qwen2_5OmniThinkerConfig Qwen3OmniMoeThinkerConfig", {"vision_start_token_id": 6}),
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
    "TransfoXLConfig": {"cutoffs": [32], "d_embed": HIDDEN, "d_inner": HIDDEN, "d_head": 8},
    "UdopConfig": _START,
    "VipLlavaConfig": {"vision_feature_layers": [-1, -2]},
    "VoxtralEncoderConfig": {"max_source_positions": 16, "intermediate_size": 4 * HIDDEN, "num_mel_bins": 8},
    "WhisperConfig": {"num_mel_bins": 8},
    "XLMConfig": {"causal": True},
    "XmodConfig": {"default_language": "en_XX"},
    "Zamba2Config": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 4, "mamba_headdim": 16},
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "ZayaConfig": {"num_experts_per_tok": 1},
    "xLSTMConfig": {"hidden_size": 128, "mode": "train", "num_blocks": 2, "num_heads": 2, "chunk_size": 8},
}

#: Parts of a configuration, where the configuration class does not name their classes itself.
PARTS = {
    "EncoderDecoderConfig": {"encoder": "BertConfig", "decoder": "BertConfig"},
    "FastVlmConfig": {"vision_config": "CLIPVisionConfig"},  # in place of towers of a package that is not installed
    "LlavaConfig": {"vision_config": "CLIPVisionConfig", "text_config": "LlamaConfig"},
    "PerceptionLMConfig": {"vision_config": "CLIPVisionConfig"},
    "Qwen2AudioConfig": {"audio_config": "Qwen2AudioEncoderConfig", "text_config": "Qwen2Config"},
    "SpeechEncoderDecoderConfig": {"encoder": "Wav2Vec2Config", "decoder": "BertConfig"},
    **({"T5GemmaConfig": dict.fromkeys(("encoder", "decoder"), "T5GemmaModuleConfig")} if VERSION < (5,) else {}),
    "VisionEncoderDecoderConfig": {"encoder": "ViTConfig", "decoder": "GPT2Config"},
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
    if "kv_lora_rank" in accepted and "num_key_value_heads" in accepted:  # one latent for all heads
        chosen["num_key_value_heads"] = chosen["num_attention_heads"]
    parts = [name for name in getattr(config_class, "sub_configs", None) or {} if name not in extra]
    known = PARTS.get(config_class.__name__, {})
    default = config_class() if set(parts) - set(known) else None
    for name in {**dict.fromkeys(parts), **known}:
        part = getattr(transformers, known[name]) if name in known else _part_class(config_class, name, default)
        if hasattr(part, "model_type"):
            chosen[name] = tiny_config(part, **SPECIAL.get(f"{config_class.__name__}.{name}", {})).to_dict()
    return config_class(**{**chosen, **extra})


def _size(model_class, config):
    try:
        with torch.device("meta"):
            model = model_class(config)
    except NotImplementedError:  # it reads a value while it is built
        model = model_class(config)
    return sum(parameter.numel() for parameter in model.parameters())


def tiny_model(name, **extra):
    """A small random instance of a transformers class, in train mode; the global random state stays."""
    model_class = getattr(transformers, name)
    config = tiny_config(model_class.config_class, **extra)
    size = _size(model_class, config)
    if size > LARGEST:
        raise MemoryError(f"{name} would have {size} parameters: a size is missing in SIZES or SPECIAL")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).train()
