"""Kin: codebooks whose weights may be compared, since one kind of head predicts them."""

from __future__ import annotations

from collections.abc import Sequence

from alignment import Finding, Supervision
from alignment.comparison import merge_codebooks
from alignment.rules.la303_uneven_codebooks import uneven_codebooks

from ..models.adapter import View

__all__ = ["among_kin"]


def among_kin(findings: Sequence[Finding], actual: Sequence[Supervision], view: View) -> list[Finding]:
    """Findings with codebooks weighed against their kin alone: a depth decoder has a loss of its own."""
    if not view.kin or not any(f.code == "LA303" for f in findings):
        return list(findings)
    books = sum(stream.is_audio for stream in view.streams)
    out = [f for f in findings if f.code != "LA303"]
    for kind in dict.fromkeys(view.kin):
        group = [one for one, own in zip(actual, view.kin, strict=True) if own == kind and one.stream.is_audio]
        out += merge_codebooks(list(uneven_codebooks(group)), books) if len(group) > 1 else []
    return out
