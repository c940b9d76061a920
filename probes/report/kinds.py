"""The verdicts as a picture shows them: sign, name and meaning, and which of them a finding speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..records.row_story import RowStory
from .tokens import SIGNS

__all__ = ["KINDS", "KINDS_OF", "Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """One verdict in a picture; ``id`` names its colour in the style sheets."""

    id: str
    sign: str
    label: str
    help: str


KINDS = (
    Kind("right", SIGNS["right"], "right", "trained on the token after the row"),
    Kind("copy", SIGNS["copy"], "copy", "trained on the token the row has just read"),
    Kind("double", "2", "double shift", "trained on the token after the next one"),
    Kind("astray", SIGNS["astray"], "wrong offset", "trained on a token of another place"),
    Kind("border", SIGNS["border"], "other segment", "trained on a token of another segment, sample or document"),
    Kind("codebook", SIGNS["codebook"], "other codebook", "trained on another codebook's token"),
    Kind("foreign", SIGNS["foreign"], "other modality", "trained on a token of the other modality"),
    Kind("unexpected", SIGNS["unexpected"], "unexpected", "trained where no target is expected"),
    Kind("missing", SIGNS["missing"], "missing", "expected and not trained"),
    Kind("lost", SIGNS["lost"], "lost in the merge", "the model's own merge dropped the label"),
    Kind("unreadable", SIGNS["unreadable"], "unreadable", "a gradient without a hard target"),
    Kind("unknown", SIGNS["unknown"], "expected", "the loss did not run: this is what it should train"),
    Kind("none", SIGNS["none"], "no target", "nothing is expected and nothing trained"),
)

#: The kinds of row that a finding of this code is about.
KINDS_OF: Mapping[str, tuple[str, ...]] = {
    "LA101": ("unknown",),
    "LA102": ("copy",),
    "LA103": ("double",),
    "LA104": ("astray",),
    "LA105": ("copy", "double", "astray"),
    "LA106": ("codebook",),
    "LA107": ("foreign",),
    "LA201": ("missing", "lost"),
    "LA202": ("unexpected",),
    "LA203": ("missing",),
    "LA204": ("border",),
    "LA205": ("missing",),
    "LA206": ("missing",),
    "LA301": ("right",),
    "LA303": ("right",),
    "LA304": ("right",),
}


def kind_of(story: RowStory) -> str:
    """The kind of a row: its verdict, and a double shift by its own name."""
    return "double" if story.verdict == "astray" and story.offset == 2 else story.verdict
