"""LA205: A stream that has labels receives no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import RIGHT_AUDIO, Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where targets are expected and no row has a gradient, unless the model's merge has lost them all."""
    if one.silent and not bool((one.verdicts.lost == one.expected.trained).all()):
        message = f"{one.name} has {one.wanted} labelled targets and no gradient: the loss never reaches its logits"
        yield one.told("LA205", one.verdicts.missing, message)


RULE = Rule(
    "LA205",
    "silent-stream",
    "error",
    summary="A stream that has labels receives no gradient.",
    headline="None of the {all} is trained",
    silent="The total loss still falls on the other streams. Trainers that skip a loss when lengths "
    "differ do so at every step.",
    fix="Add the loss of this stream to the total and raise where it is skipped now. Where its labels "
    "vanish after the first epoch, clone the samples before collating: "
    "`collator(copy.deepcopy(samples))`.",
    case="boson_multimodal 0.1.1, HiggsAudioSampleCollator: it edits its samples in place; collating "
    "the same in-memory samples a second time gave 0 audio targets instead of 136.",
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304"),
    checks=("loss", "pairing", "coverage"),
    of_loss=judge,
    bad="""\
model, batch, options = speech()


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    return F.cross_entropy(heads[0][:, :-1].flatten(0, 1), codes[:, 0, 1:].flatten())
""",
    good=RIGHT_AUDIO,
)
