"""LA204: A target is taken from another segment, sample or packed document."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where the token after a row belongs to another segment."""
    rows = one.verdicts.border
    if "border" in one.verdicts.some:
        where = f"{int(rows.sum())} rows of {one.name} are trained on the first token of another segment"
        yield one.told("LA204", rows, f"{where}, sample or document")


RULE = Rule(
    "LA204",
    "border-crossing",
    "error",
    summary="A target is taken from another segment, sample or packed document.",
    headline="{trained} [learns|learn] a token from beyond a border",
    silent="It is one row per border among many right ones, and its offset is usually +1 as well.",
    fix="Before the shift, set the first position-aligned label of each segment and document to -100, "
    "on a copy: `labels[position_ids == 0] = -100`.",
    audio_fix="Before the shift, set the first label of each segment to -100, on a copy: "
    "`label_audio_ids[:, audio_out_ids_start] = -100`.",
    case="pytorch/torchtitan #4075: in packed data the last token of a document predicts the first token of the next.",
    note="Borders come from `audio_out_ids_start`, the samples, resets of `position_ids`, "
    "`cu_seq_lens`, `seq_idx`, or are given.",
    checks=("coverage",),
    of_loss=judge,
    bad="""\
batch = packed(batch)


def loss(model, batch):
    logits, labels = model(**batch, use_cache=False).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
    good="""\
batch = packed(batch)


def loss(model, batch):
    logits, labels = model(**batch, use_cache=False).logits, batch["labels"]
    labels = labels.masked_fill(batch["position_ids"] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
