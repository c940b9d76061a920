"""LA203: The end of turn or the end of the audio stream is never a target."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Example, Finding
from .judged import EXAMPLES, Judged, Labelled
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where a kind of end is expected and trained at none of its rows."""
    ends = one.verdicts.ends
    if bool(ends.any()):
        where = f"{one.name}: the end token is expected at {int(ends.sum())} rows and trained at none"
        yield one.told("LA203", ends, f"{where}: generation will not stop")


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where an end id directly follows a labelled span in the ids, and is labelled nowhere.

    A span that ends with a labelled end id of another kind needs no second one: padding is often written so.
    """
    stream, labels = one.stream, one.labels
    if one.convention not in {"position_aligned", "pre_shifted"}:
        return
    unnamed, content = one.labelled.new_zeros(len(labels)), one.labelled.clone()
    for end in stream.end_ids:
        if not bool((labels == end).any()):
            unnamed |= stream.ids == end
        content &= labels != end
    before = one.labelled.new_zeros(len(labels))
    lag = 1 if one.convention == "position_aligned" else 2
    before[lag:] = content[:-lag] & (stream.segment[lag:] == stream.segment[:-lag])
    rows = (unnamed & before).nonzero().reshape(-1)
    if rows.numel() == 0:
        return
    message = (
        f"{stream.name}: {rows.numel()} labelled spans are followed by an end token that no label names: "
        "the model never learns to stop"
    )
    examples = tuple(
        Example(stream.name, int(stream.sample[r]), int(stream.row[r]) - 1, int(labels[r]), int(stream.ids[r]), -1)
        for r in rows[:EXAMPLES]
    )
    yield one.told("LA203", rows.numel(), message, examples)


RULE = Rule(
    "LA203",
    "no-end-token",
    "error",
    summary="The end of turn or the end of the audio stream is never a target.",
    silent="One token per turn hardly moves the loss. It shows at generation only, which does not stop.",
    fix="Label the end token of every trained span (`<|eot_id|>` in text, the stream eos in every "
    "codebook). Where pad equals eos, mask padding by position, not by id: `labels[attention_mask == 0] "
    "= -100`.",
    case="transformers 5.23.0, Higgs Audio v2 processor: `output_labels` masks both stream bos and "
    "stream eos, so the end of audio is never a target.",
    checks=("coverage",),
    of_loss=judge,
    of_labels=judge_labels,
)
