"""LA205: A stream that has labels receives no gradient."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA205",
    "silent-stream",
    "error",
    summary="A stream that has labels receives no gradient.",
    silent="The total loss still falls on the other streams. Trainers that skip a loss when lengths "
    "differ do so at every step.",
    fix="Add the loss of this stream to the total and raise where it is skipped now. Where its labels "
    "vanish after the first epoch, clone the samples before collating: "
    "`collator(copy.deepcopy(samples))`.",
    case="boson_multimodal 0.1.1, HiggsAudioSampleCollator: it edits its samples in place; collating "
    "the same in-memory samples a second time gave 0 audio targets instead of 136.",
    checks=("loss", "pairing", "coverage"),
)
