"""Labels against the label rules: faults that sit in the data, before any loss has run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Finding, Stream, infer_convention
from alignment.findings import LABELS, Example, finding

from ..models.adapter import View

__all__ = ["label_findings"]


def label_findings(view: View) -> list[Finding]:
    """LA502, LA103 to LA105 and LA203 that the labels show by themselves, one per cause."""
    out: list[Finding] = []
    for number, (stream, labels) in enumerate(zip(view.streams, view.labels, strict=True)):
        if labels is not None:
            out.extend(_of_stream(stream, labels, view.convention(number), masked=number in view.masked))
    return _one_per_code(out, sum(stream.is_audio for stream in view.streams))


def _of_stream(stream: Stream, labels: Tensor, declared: Convention | None, *, masked: bool) -> Iterator[Finding]:
    outside = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= stream.vocab))
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        message = (
            f"{int(outside.sum())} labels of {stream.name} lie outside its vocabulary of {stream.vocab} and are not "
            f"{IGNORE_INDEX}: e.g. {int(labels[row])} at sample {int(stream.sample[row])} row {int(stream.row[row])}"
        )
        yield finding("LA502", stream.name, message, count=int(outside.sum()), basis=LABELS)
        return
    if masked:
        return  # labels are what stood where a masked token is read
    if declared is not None:
        yield from _ends(stream, labels, declared)
        return
    evidence = infer_convention(labels, stream)
    if evidence.convention is Convention.INCONSISTENT:
        code = {None: "LA105", 2: "LA103"}.get(evidence.offset, "LA104")
        where = "; ".join(str(row) for row in evidence.disagreements)
        message = f"the labels of {stream.name} fit neither convention: {evidence}. First rows that disagree: {where}"
        examples = tuple(Example(stream.name, d.sample, d.row, d.label, d.after, -1) for d in evidence.disagreements)
        wrong = evidence.labelled - max(evidence.here, evidence.after)
        yield finding(code, stream.name, message, count=wrong, basis=LABELS, examples=examples)
    elif evidence.convention in (Convention.POSITION_ALIGNED, Convention.PRE_SHIFTED):
        yield from _ends(stream, labels, evidence.convention)


def _ends(stream: Stream, labels: Tensor, convention: Convention) -> Iterator[Finding]:
    """LA203: an end id directly follows a labelled span in the ids, and is labelled nowhere.

    A span that ends with a labelled end id of another kind needs no second one: padding is often written so.
    """
    unnamed, content = torch.zeros_like(labels, dtype=torch.bool), labels != IGNORE_INDEX
    for end in stream.end_ids:
        if not bool((labels == end).any()):
            unnamed |= stream.ids == end
        content &= labels != end
    before = torch.zeros_like(content)
    lag = 1 if convention is Convention.POSITION_ALIGNED else 2
    before[lag:] = content[:-lag] & (stream.segment[lag:] == stream.segment[:-lag])
    rows = torch.nonzero(unnamed & before).reshape(-1)
    if rows.numel() == 0:
        return
    message = (
        f"{stream.name}: {rows.numel()} labelled spans are followed by an end token that no label names: "
        "the model never learns to stop"
    )
    examples = tuple(
        Example(stream.name, int(stream.sample[r]), int(stream.row[r]) - 1, IGNORE_INDEX, int(stream.ids[r]), -1)
        for r in rows[:4]
    )
    yield finding("LA203", stream.name, message, count=rows.numel(), basis=LABELS, examples=examples)


def _one_per_code(findings: list[Finding], books: int) -> list[Finding]:
    """A fault of several codebooks is told once."""
    from alignment.comparison import merge_codebooks

    return list(merge_codebooks(findings, books))
