"""Every transformers class with an output head, and what its own loss trains.

The answer is +1 unless ``DEVIATES`` says otherwise, with the reason; a class that cannot run here stands
in ``NOT_RUN``, with the reason.
"""

from __future__ import annotations

import transformers
from lm_tiny import OLD
from transformers.models.auto import modeling_auto

__all__ = ["DEVIATES", "NOT_RUN", "QUICK", "all_classes"]


def _each(names, value):
    return dict.fromkeys(names.split(), value)


_DECODER_ALONE = "the decoder of an encoder-decoder family, used alone: its loss pairs logits and labels as they stand"
_COPY = "its loss pairs logits and labels as they stand"
_COPIES = ("LA102",)
#: What a class's own loss trains where that is not the next token: offset, findings and reason.
DEVIATES = {
    **_each(
        "BartForCausalLM BigBirdPegasusForCausalLM BlenderbotForCausalLM BlenderbotSmallForCausalLM "
        "MBartForCausalLM MarianForCausalLM MvpForCausalLM PLBartForCausalLM PegasusForCausalLM "
        "ProphetNetForCausalLM TrOCRForCausalLM WhisperForCausalLM XLMProphetNetForCausalLM "
        "Speech2Text2ForCausalLM",
        (0, _COPIES, _DECODER_ALONE),
    ),
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

_OWN_INPUTS = "needs an image, audio or boxes in every batch, in a form of its own"
_BY_HAND = "its sizes depend on each other: a small configuration has to be written by hand"
_PACKAGE = "needs a package that is not installed for the tests (timm, PIL, scipy, pytorch-quantization)"
#: Classes whose configuration transformers 4 cannot shrink by name.
_NEEDS_PARTS = _each(
    "Blip2ForConditionalGeneration Pix2StructForConditionalGeneration Qwen2AudioForConditionalGeneration "
    "Qwen2VLForConditionalGeneration",
    value=True,
)
#: Classes of ``all_classes`` that are not run, and why.
NOT_RUN = {
    **_each(
        "CanaryForConditionalGeneration CohereAsrForConditionalGeneration IdeficsForVisionText2Text "
        "InstructBlipForConditionalGeneration InstructBlipVideoForConditionalGeneration "
        "Kosmos2ForConditionalGeneration SpeechT5ForSpeechToText UdopForConditionalGeneration "
        "VoxtralRealtimeForConditionalGeneration",
        _OWN_INPUTS,
    ),
    **_each(
        "BltForCausalLM ChameleonForConditionalGeneration CohereCompassForCausalLM "
        "CohereCompassForConditionalGeneration Cosmos3EdgeForConditionalGeneration "
        "DeepseekOcr2ForConditionalGeneration DiaForConditionalGeneration DiffusionGemmaForBlockDiffusion "
        "Dots3NoteForConditionalGeneration Emu3ForConditionalGeneration "
        "Ernie4_5_VLMoeForConditionalGeneration FunAsrNanoForConditionalGeneration "
        "Gemma4AssistantForCausalLM Gemma4UnifiedAssistantForCausalLM "
        "Gemma4UnifiedForConditionalGeneration Glm5NextForConditionalGeneration "
        "Granite4VisionForConditionalGeneration GraniteSpeechForConditionalGeneration "
        "GraniteSpeechPlusForConditionalGeneration HunYuanVLForConditionalGeneration "
        "Inkling2ForConditionalGeneration JanusForConditionalGeneration "
        "KyutaiSpeechToTextForConditionalGeneration Llama4ForConditionalGeneration "
        "Molmo2ForConditionalGeneration MoonshineStreamingForConditionalGeneration "
        "MuseGlimmerForConditionalGeneration MuseSparkForConditionalGeneration "
        "NemotronH_Omni_Reasoning_V3 Nemotron3_5TranscribeForConditionalGeneration "
        "PPFormulaNetForConditionalGeneration Qwen2_5OmniThinkerForConditionalGeneration "
        "Qwen3OmniMoeThinkerForConditionalGeneration SeamlessM4TForSpeechToText "
        "SeamlessM4Tv2ForSpeechToText TransfoXLLMHeadModel VibeVoiceAsrForConditionalGeneration "
        "VibeVoiceForConditionalGeneration ZambaForCausalLM",
        _BY_HAND,
    ),
    **_each(
        "FastVlmForConditionalGeneration Gemma3nForConditionalGeneration InklingForConditionalGeneration "
        "PerceptionLMForConditionalGeneration QDQBertLMHeadModel",
        _PACKAGE,
    ),
    "GitForCausalLM": "lengthens the sequence by its image: refused, see test_lm_wrapped.py",
    "MusicgenForCausalLM": "has a head per codebook: each has to be named with --head",
    "MusicgenMelodyForCausalLM": "has a head per codebook: each has to be named with --head",
    "OpenLlamaForCausalLM": "has no head module: it multiplies with its embedding",
    "PI0ForConditionalGeneration": "predicts actions: it has no output head over ids",
}
if OLD:
    NOT_RUN["EncoderDecoderModel"] = "its decoder must be told by hand that it is one"
    NOT_RUN["MllamaForCausalLM"] = _BY_HAND
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
        "Blip2ForConditionalGeneration Qwen2VLForConditionalGeneration "
        # encoder and decoder
        "T5ForConditionalGeneration BartForConditionalGeneration MBartForConditionalGeneration "
        "FSMTForConditionalGeneration WhisperForConditionalGeneration MoonshineForConditionalGeneration "
        "Florence2ForConditionalGeneration VisionEncoderDecoderModel Pix2StructForConditionalGeneration "
        # copies
        "BartForCausalLM MBartForCausalLM MarianForCausalLM PegasusForCausalLM WhisperForCausalLM "
        "TrOCRForCausalLM ProphetNetForCausalLM XLNetLMHeadModel",
        value=True,
    )
    if hasattr(transformers, name) and not (OLD and name in _NEEDS_PARTS)
]


def all_classes():
    """Every class of transformers' own lists of models that generate text, once each."""
    lists = (
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    )
    lists = lists[:2] if OLD else lists  # transformers 4 does not say which parts a configuration has
    return list(dict.fromkeys(name for one in lists for name in getattr(modeling_auto, one).values()))
