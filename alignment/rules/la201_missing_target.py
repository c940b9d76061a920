"""LA201: An expected target is trained nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule

COLUMNS = (
    "Ids and the columns of the logits count from different places: do not cut the first columns off the logits, and "
    "add nothing to the labels."
)
MERGE = "Hand the model position-aligned labels (a copy of the ids) and shift after the forward."


def judge(one: Judged) -> Iterator[Finding]:
    """Where an expected row has no gradient: by the loss, or because the model's merge lost its label."""
    if one.other_id is not None:
        message = (
            f"all {one.trained} trained rows of {one.name} are trained on the id {one.other_id:+d} of their target: "
            "right rows, wrong tokens"
        )
        yield one.told("LA201", one.actual.trained, message, fix=COLUMNS)
    if "missing" not in one.verdicts.some:
        return
    rows = one.verdicts.missing & ~one.verdicts.lost & ~one.verdicts.ends
    if bool(rows.any()):
        message = f"{int(rows.sum())} of {one.wanted} expected targets of {one.name} are trained nowhere"
        yield one.told("LA201", rows, message)
    lost = one.verdicts.lost
    if "lost" in one.verdicts.some:
        message = (
            f"{int(lost.sum())} targets of {one.name} are lost inside the model: labels shifted beforehand sit on "
            "audio placeholders, and the merge overwrites the label of every placeholder"
        )
        yield one.told("LA201", lost, message, fix=MERGE, severity="warning")


RULE = Rule(
    "LA201",
    "missing-target",
    "error",
    summary="An expected target is trained nowhere.",
    headline="{wanted} [is|are] trained nowhere",
    silent="The loss is a mean over the rows that are left, so a lost row leaves no trace in it.",
    fix="Shift the loss mask together with the labels, and label the model's input before it is "
    "expanded, position-aligned. To list the rows that are lost, run `loss-align explain`.",
    case="verl #3287: the loss mask was sliced opposite to the labels, and the first answer token was never trained.",
    lesser="Where given decoder ids begin with another id than `decoder_start_token_id`, and where the model's own "
    "merge lost the label: the released Higgs merge sets the label of every placeholder to -100, so with pre-shifted "
    "labels the token after each target audio is lost (measured: 68 targets became 66).",
    checks=("coverage",),
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    labels = labels.masked_fill(torch.arange(labels.shape[1]) < 8, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
