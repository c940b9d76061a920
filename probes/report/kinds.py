"""The verdicts as a picture shows them: sign, name and meaning, and which of them a finding speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignment.wording import agreeing

from ..records.row_story import RowStory
from .tokens import SIGNS

__all__ = ["KINDS", "KINDS_OF", "Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """One verdict in a picture: ``id`` names its colour in the style sheets, ``told`` says what so many rows do."""

    id: str
    sign: str
    label: str
    help: str
    told: str

    def counted(self, number: int, noun: str = "") -> str:
        """``10 rows learn the next token``."""
        return f"{number:,}{noun} {agreeing(number, self.told)}"


KINDS = (
    Kind("right", SIGNS["right"], "right", "trained on the token after the row", "[learns|learn] the next token"),
    Kind(
        "copy",
        SIGNS["copy"],
        "copy",
        "trained on the token the row has just read",
        "[learns|learn] to repeat what [it has|they have] just read",
    ),
    Kind(
        "double",
        "2",
        "double shift",
        "trained on the token after the next one",
        "[learns|learn] the token after the next one",
    ),
    Kind(
        "astray",
        SIGNS["astray"],
        "wrong offset",
        "trained on a token of another place",
        "[learns|learn] a token of another place",
    ),
    Kind(
        "border",
        SIGNS["border"],
        "other segment",
        "trained on a token of another segment, sample or document",
        "[learns|learn] a token from beyond a border",
    ),
    Kind(
        "codebook",
        SIGNS["codebook"],
        "other codebook",
        "trained on another codebook's token",
        "[learns|learn] another codebook's token",
    ),
    Kind(
        "foreign",
        SIGNS["foreign"],
        "other modality",
        "trained on a token of the other modality",
        "[learns|learn] a token of the other modality",
    ),
    Kind(
        "unexpected",
        SIGNS["unexpected"],
        "unexpected",
        "trained where no target is expected",
        "[is|are] trained and must not be",
    ),
    Kind("missing", SIGNS["missing"], "missing", "expected and not trained", "[is|are] not trained and must be"),
    Kind(
        "lost",
        SIGNS["lost"],
        "lost in the merge",
        "the model's own merge dropped the label",
        "lost [its label|their labels] in the model's merge",
    ),
    Kind("unreadable", SIGNS["unreadable"], "unreadable", "a gradient without a hard target", "could not be read"),
    Kind(
        "unknown",
        SIGNS["unknown"],
        "expected",
        "the loss did not run: this is what it should train",
        "would be trained",
    ),
    Kind("none", SIGNS["none"], "no target", "nothing is expected and nothing trained", "[has|have] no target"),
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
