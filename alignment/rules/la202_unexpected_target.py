"""LA202: Prompt, padding, placeholder or reference audio is trained."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA202",
    "unexpected-target",
    "error",
    summary="Prompt, padding, placeholder or reference audio is trained.",
    silent="Extra targets are easy ones, often constant fill, so they lower the mean loss.",
    fix="Set the labels outside the trained turns to -100: `labels[~trained] = -100`.",
    audio_fix="Train audio on `label_audio_ids`, not on `audio_out_ids`, and set the labels of audio that is not to "
    "be learnt to -100.",
    case="verl #3562: the loss mask is shifted opposite to the labels, so each answer loses its end "
    "token and a prompt row is trained in its place.",
    lesser="Where delay-pattern filler is trained (bos before and eos after the codes of a delayed codebook).",
    checks=("coverage",),
)
