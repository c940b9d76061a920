"""LA201: An expected target is trained nowhere."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA201",
    "missing-target",
    "error",
    summary="An expected target is trained nowhere.",
    silent="The loss is a mean over the rows that are left, so a lost row leaves no trace in it.",
    fix="Shift the loss mask together with the labels, and label the model's input before it is "
    "expanded, position-aligned. To list the rows that are lost, run `loss-align explain`.",
    case="verl #3287: the loss mask was sliced opposite to the labels, and the first answer token was never trained.",
    lesser="Where the model's own merge lost the label: the released Higgs merge sets the label "
    "of every placeholder to -100, so with pre-shifted labels the token after each target audio is lost "
    "(measured: 68 targets became 66).",
    checks=("coverage",),
)
