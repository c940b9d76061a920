"""Small instances of audio models with several codebooks, and batches for them."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

B, T = 2, 7
MIMI = {
    "model_type": "mimi",
    "hidden_size": 8,
    "num_filters": 2,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "num_semantic_quantizers": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
    "upsample_groups": 8,
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
}


def needs(name):
    """Skips where this transformers does not have a class."""
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, name)


def made(model_class, config):
    """An instance whose codec gives different codes: its codebooks are all zero as they are made."""
    transformers.logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")  # codecs of older versions
        torch.manual_seed(0)
        model = model_class(config)
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_()
    return model


def drawn(*shape, high, seed=0):
    """Codes that are all different where there are enough of them."""
    count = torch.Size(shape).numel()
    order = torch.randperm(max(high, count), generator=torch.Generator().manual_seed(seed)) % high
    return order[:count].reshape(shape)


# -- MusicGen ---------------------------------------------------------------------------------------


def musicgen_config():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 32, "num_codebooks": 4}
    special = {"pad_token_id": 99, "bos_token_id": 99}
    return transformers.MusicgenDecoderConfig(vocab_size=99, **sizes, **special, max_position_embeddings=64)


def musicgen_decoder():
    return made(transformers.MusicgenForCausalLM, musicgen_config())


def musicgen():
    text = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    small = {"num_filters": 2, "hidden_size": 8, "codebook_dim": 8, "upsampling_ratios": [2, 2], "num_lstm_layers": 1}
    audio = transformers.EncodecConfig(codebook_size=64, **small)
    decoder = {**musicgen_config().to_dict(), "decoder_start_token_id": 99}
    config = transformers.MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=audio.to_dict(), decoder=decoder)
    return made(transformers.MusicgenForConditionalGeneration, config)


# -- Dia --------------------------------------------------------------------------------------------


def dia():
    model_class = needs("DiaForConditionalGeneration")
    from transformers.models.dia.configuration_dia import DiaDecoderConfig, DiaEncoderConfig

    heads = {"cross_num_attention_heads": 4, "cross_head_dim": 8, "cross_num_key_value_heads": 4}
    encoder = DiaEncoderConfig(**SMALL, intermediate_size=32, vocab_size=64)
    decoder = DiaDecoderConfig(**SMALL, **heads, intermediate_size=32, cross_hidden_size=32)
    return made(model_class, transformers.DiaConfig(encoder_config=encoder, decoder_config=decoder))


# -- CSM --------------------------------------------------------------------------------------------


def csm():
    model_class = needs("CsmForConditionalGeneration")
    depth = {**SMALL, "num_codebooks": 4, "backbone_hidden_size": 32, "vocab_size": 131, "intermediate_size": 32}
    config = transformers.CsmConfig(
        **SMALL,
        intermediate_size=32,
        vocab_size=131,
        text_vocab_size=200,
        num_codebooks=4,
        codebook_pad_token_id=129,
        codebook_eos_token_id=130,
        audio_token_id=190,
        audio_eos_token_id=191,
        bos_token_id=192,
        eos_token_id=193,
        depth_decoder_config=depth,
        codec_config={**MIMI, "codebook_size": 128},
    )
    return made(model_class, config)


def csm_batch(model):
    """Text and one audio per sample, the second shorter and padded on the left; labels as the processor writes them."""
    codec = model.codec_model.config
    hop = int(codec.sampling_rate / codec.frame_rate)
    ids = torch.tensor([[1, 2, 3, 190, 190, 190, 191], [0, 4, 5, 6, 190, 190, 191]])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * 7, [0, *[1] * 6]]),
        "input_values": torch.randn(2, 1, 3 * hop, generator=torch.Generator().manual_seed(0)),
        "input_values_cutoffs": torch.tensor([[3 * hop], [2 * hop]]),
        "labels": torch.where(ids >= 190, ids, -100),
    }


# -- Moshi ------------------------------------------------------------------------------------------


def moshi():
    model_class = needs("MoshiForConditionalGeneration")
    depth = {
        "vocab_size": 100,
        "hidden_size": 16,
        "input_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "audio_vocab_size": 64,
        "ffn_dim": 32,
        "num_codebooks": 4,
        "max_position_embeddings": 8,
    }
    config = transformers.MoshiConfig(
        **SMALL,
        vocab_size=100,
        ffn_dim=64,
        audio_vocab_size=64,
        num_codebooks=4,
        max_position_embeddings=64,
        audio_encoder_config={**MIMI, "codebook_size": 64},
        depth_decoder_config=depth,
    )
    return made(model_class, config)


# -- Kyutai's speech to text ------------------------------------------------------------------------


def kyutai():
    model_class = needs("KyutaiSpeechToTextForConditionalGeneration")
    config = transformers.KyutaiSpeechToTextConfig(
        **SMALL,
        vocab_size=100,
        codebook_vocab_size=65,
        num_codebooks=4,
        ffn_dim=64,
        audio_bos_token_id=64,
        audio_pad_token_id=100 + 4 * 65,
        max_position_embeddings=64,
        codec_config={**MIMI, "codebook_size": 64},
    )
    return made(model_class, config)
