"""Models of codes before the jury: a small instance of each class, and a batch with its labels as documented."""

from __future__ import annotations

import codebook_models as small
import torch
import transformers
from codebook_models import B, T, drawn
from families import higgs_batch, higgs_model

__all__ = ["CODES"]


def _csm():
    model = small.csm()
    return model, small.csm_batch(model)


def _dia():
    """As the processor makes it: delayed codes with bos in front, labels cut from them one step later."""
    codes = drawn(B, T + 1, 9, high=1020)
    codes[:, 0] = 1026
    labels = codes[:, 1:].transpose(1, 2).reshape(B * 9, T)
    return small.dia(), {"input_ids": drawn(B, 5, high=60), "decoder_input_ids": codes[:, :-1], "labels": labels}


def _higgs():
    model = higgs_model("higgs_v2", hidden=32, layers=1)
    return model, higgs_batch(model)


def _kyutai():
    text, heard = drawn(B, T, high=90), drawn(B, T, 4, high=63)
    return small.kyutai(), {"input_ids": torch.cat([text[..., None], heard], -1), "labels": text}


def _moshi():
    text, codes = drawn(B, T, high=90), drawn(B, 4, T, high=63)
    heard = {"moshi_audio_codes": codes, "user_audio_codes": drawn(B, 4, T, high=63, seed=1)}
    return small.moshi(), {"input_ids": text, **heard, "text_labels": text, "audio_labels": codes}


def _musicgen():
    return small.musicgen(), {"input_ids": drawn(B, 5, high=40), "labels": drawn(B, T, 4, high=98)}


#: What makes model and batch of a class.
CODES = {
    "CsmForConditionalGeneration": _csm,
    "DiaForConditionalGeneration": _dia,
    "HiggsAudioV2ForConditionalGeneration": _higgs,
    "MoshiForConditionalGeneration": _moshi,
    "MusicgenForConditionalGeneration": _musicgen,
}
if transformers.__version__ >= "5":
    CODES["KyutaiSpeechToTextForConditionalGeneration"] = _kyutai
