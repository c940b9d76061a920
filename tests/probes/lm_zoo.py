"""Every transformers class with an output head, and what its own loss trains.

The answer is +1 unless ``DEVIATES`` says otherwise, with the reason; a class that cannot run here stands
in ``NOT_RUN``, with the reason. Both hold for the version of transformers that is installed.
"""

from __future__ import annotations

import transformers
from lm_tiny import OLD, VERSION
from transformers.models.auto import modeling_auto

__all__ = ["DEVIATES", "HEADS", "LOSSES", "NOT_RUN", "OF_DEFAULTS", "QUICK", "all_classes"]


def _each(names, value):
    return dict.fromkeys(names.split(), value)


_DECODER_ALONE = "the decoder of an encoder-decoder family, used alone: its loss pairs logits and labels as they stand"
_COPY = "its loss pairs logits and labels as they stand"
_COPIES = ("LA102",)
_MOSHI = (
    "codes given as audio_labels: paired with the logits as they stand, delayed codebooks included; text shifted "
    "twice in 4.57"
)
#: What a class's own loss trains where that is not the next token: offset, findings and reason.
DEVIATES = {
    **_each(
        "BartForCausalLM BigBirdPegasusForCausalLM BlenderbotForCausalLM BlenderbotSmallForCausalLM "
        "MBartForCausalLM MarianForCausalLM MvpForCausalLM PLBartForCausalLM PegasusForCausalLM "
        "TrOCRForCausalLM WhisperForCausalLM Speech2Text2ForCausalLM",
        (0, _COPIES, _DECODER_ALONE),
    ),
    **_each("ProphetNetForCausalLM XLMProphetNetForCausalLM", (0, 2 * _COPIES, _DECODER_ALONE)),  # of both n-grams
    **_each(
        "MusicgenForCausalLM MusicgenMelodyForCausalLM",
        (0, _COPIES, f"ids and labels both given, one codebook: {_COPY}"),
    ),
    "CsmForConditionalGeneration": (1, ("LA303",), "half of its loss is the first codebook, by design"),
    "MoshiForConditionalGeneration": (None, ("LA104", "LA102", "LA104"), _MOSHI),
    "CpmAntForCausalLM": (0, _COPIES, _COPY),
    "GPTSanJapaneseForConditionalGeneration": (0, _COPIES, f"a prefix and masked model: {_COPY}"),
    "XLMWithLMHeadModel": (0, _COPIES, f"a masked language model first: {_COPY}"),
    "XLNetLMHeadModel": (0, _COPIES, "permutation language modelling: labels belong to target_mapping"),
}
if OLD:
    DEVIATES["XGLMForCausalLM"] = (
        1,
        ("LA202",),
        "a defect of its time: the last position is trained on padding",
    )
_TWICE = "a defect of its time: the model shifts, and ForCausalLMLoss shifts once more"
if (4, 50) <= VERSION < (5,):
    DEVIATES |= _each(
        "Florence2ForConditionalGeneration MoonshineForConditionalGeneration MoshiForCausalLM "
        "VisionEncoderDecoderModel",
        (2, ("LA103",), _TWICE),
    )
    DEVIATES["MoshiForConditionalGeneration"] = (None, ("LA104", "LA103", "LA102", "LA104"), _MOSHI)

#: Head modules of classes whose heads have to be named.
HEADS = _each("MusicgenForCausalLM MusicgenMelodyForCausalLM", ("lm_heads.0",))


def _one_codebook(model, batch, **kwargs):
    """The labels of MusicGen have one more axis than its ids: the codebook."""
    return model(**{**batch, "labels": batch["labels"][..., None]}, **kwargs).loss


#: The model's own loss, where it is asked for in another way than ``model(**batch).loss``.
LOSSES = _each("MusicgenForCausalLM MusicgenMelodyForCausalLM", _one_codebook)

_TIMM = "its image tower is one of timm, which is not installed for the tests"
_DRAFTS = "drafts for another model: its forward takes that model's keys and values, and no labels"
_CODEBOOKS = "reads ids of several codebooks at once: no batch of text fits it"
_NO_HEAD = "no head over ids that get_output_embeddings() names"
#: Classes whose configuration transformers 4.46 cannot shrink by name.
_NEEDS_PARTS = _each(
    "Blip2ForConditionalGeneration IdeficsForVisionText2Text Pix2StructForConditionalGeneration "
    "Qwen2AudioForConditionalGeneration Qwen2VLForConditionalGeneration",
    value=True,
)
#: Classes whose sizes depend on each other, and whose default configuration can be made small.
OF_DEFAULTS = _each(
    "Dots3NoteForConditionalGeneration MuseSparkForConditionalGeneration NemotronH_Omni_Reasoning_V3 "
    "Nemotron3_5TranscribeForConditionalGeneration",
    value=True,
)
#: Classes of ``all_classes`` that are not run, and why.
NOT_RUN = {
    **_each("CsmForConditionalGeneration KyutaiSpeechToTextForConditionalGeneration", _CODEBOOKS),
    **_each("DiaForConditionalGeneration HiggsAudioV2ForConditionalGeneration", _NO_HEAD),
    "DiffusionGemmaForBlockDiffusion": "its forward takes no labels: what it is given is denoised, a block at a time",
    "Gemma3nForConditionalGeneration": _TIMM,
    **_each("Gemma4AssistantForCausalLM Gemma4UnifiedAssistantForCausalLM", _DRAFTS),
    "GitForCausalLM": "puts an image's rows before its text: judged as a declared stream, see test_lm_wrapped.py",
    "InklingForConditionalGeneration": "its image tower is planned with scipy, which is not installed for the tests",
    "PI0ForConditionalGeneration": "has no head over ids: its loss is that of a robot's actions",
    "QDQBertLMHeadModel": "needs pytorch-quantization, which is not installed for the tests",
    "TransfoXLLMHeadModel": "its forward takes no attention_mask, its head gives log-probabilities of several tables",
}
if (4, 47) <= VERSION < (5,):
    NOT_RUN["PerceptionLMForConditionalGeneration"] = _TIMM
    NOT_RUN["Speech2Text2ForCausalLM"] = "cannot be built with this torch: its initialisation fails"
    NOT_RUN["xLSTMForCausalLM"] = (
        "a defect of its time: without the package xlstm its own kernel fails ('Tensor' object is not callable)"
    )
if OLD:
    NOT_RUN["Qwen2AudioForConditionalGeneration"] = "lengthens the sequence by its audio"

#: One class of every kind, for every run of the tests; ``all_classes`` is the nightly table.
QUICK = [
    name
    for name in _each(
        # text, one way or another
        "LlamaForCausalLM GPT2LMHeadModel Qwen2ForCausalLM Qwen3ForCausalLM MistralForCausalLM "
        "MixtralForCausalLM PhiForCausalLM OPTForCausalLM GPTNeoXForCausalLM BloomForCausalLM OlmoForCausalLM "
        "FalconForCausalLM MambaForCausalLM RwkvForCausalLM BertLMHeadModel MoshiForCausalLM XGLMForCausalLM "
        # capped or scaled after the head
        "GemmaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM CohereForCausalLM GraniteForCausalLM "
        # with images or audio among the text
        "LlavaForConditionalGeneration Qwen2AudioForConditionalGeneration VoxtralForConditionalGeneration "
        "Blip2ForConditionalGeneration Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration "
        "Gemma3ForConditionalGeneration IdeficsForVisionText2Text "
        # encoder and decoder
        "T5ForConditionalGeneration BartForConditionalGeneration MBartForConditionalGeneration "
        "FSMTForConditionalGeneration WhisperForConditionalGeneration MoonshineForConditionalGeneration "
        "Florence2ForConditionalGeneration VisionEncoderDecoderModel Pix2StructForConditionalGeneration "
        "SpeechT5ForSpeechToText CohereAsrForConditionalGeneration "
        # copies
        "BartForCausalLM MBartForCausalLM MarianForCausalLM PegasusForCausalLM WhisperForCausalLM "
        "TrOCRForCausalLM ProphetNetForCausalLM XLNetLMHeadModel MusicgenForCausalLM",
        value=True,
    )
    if hasattr(transformers, name) and not (OLD and name in _NEEDS_PARTS)
]

#: transformers' own lists of models that generate text or codes; the first two suffice for 4.46, see OLD.
_LISTS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)
#: Models of codes that stand in lists of another kind, among models without any head over ids.
_CODES = ("CsmForConditionalGeneration", "HiggsAudioV2ForConditionalGeneration")


def all_classes():
    """Every class of transformers' own lists of models that generate text or codes, once each."""
    lists = _LISTS[:2] if OLD else _LISTS
    named = [name for one in lists for name in getattr(modeling_auto, one, {}).values()]
    named += [] if OLD else [name for name in _CODES if hasattr(transformers, name)]
    return list(dict.fromkeys(named))
