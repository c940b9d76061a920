"""One picture: a short stretch of rows as a loss trains them, above the same rows as they should be trained.

An arrow leads from each logit to the token it is trained on. One to the right is next-token prediction;
straight up is a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html import escape

from alignment.findings import Finding
from alignment.wording import counted

from ..records.row_story import RowStory
from .kinds import KINDS, kind_of
from .markup import asset

__all__ = ["STYLE", "picture"]

STYLE = asset("colours.css") + asset("picture.css")

#: Rows of a picture; what was picked by hand may have a few more.
ROWS, MOST = 12, 16
CELL, GUTTER = 64, 82
#: Heights in a band: row numbers, tokens, their lower edge, logits, targets, the whole.
NUMBERS, TOKENS, EDGE, LOGITS, TARGETS, BAND = 42, 50, 80, 142, 166, 184
#: Characters that fit into a cell, in the usual size and in the smaller one.
FITS, LONGEST = 7, 9
OF_ID = {kind.id: kind for kind in KINDS}


def picture(rows: Sequence[RowStory], findings: Sequence[Finding], name: Callable[[int], str]) -> str:
    """The picture as a self-contained SVG; empty without rows."""
    part = _stretch(rows, findings)
    if not part:
        return ""
    text = name if not part[0].stream.startswith("audio") else lambda token: "" if token < 0 else str(token)
    ran = any(story.verdict != "unknown" for story in part if story.expected >= 0 or story.target >= 0)
    wrong = any(kind_of(story) not in ("right", "none") for story in part)
    bands = [*_trained(part, text, 0)] if ran else []
    if wrong:
        bands += _expected(part, text, BAND if ran else 0)
    width, height = GUTTER + CELL * len(part) + 8, BAND * (ran + wrong)
    where = f"{part[0].stream}, sample {part[0].sample}, rows {part[0].row} to {part[-1].row}"
    return "\n".join(
        [
            f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(f'{where}: {_counts(part)}')}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
            *bands,
            "</svg>\n",
        ]
    )


def _stretch(rows: Sequence[RowStory], findings: Sequence[Finding]) -> list[RowStory]:
    """The rows around the first example of a finding, else around the first row with a target."""
    if not rows:
        return []
    named = [(e.stream, e.sample, e.row) for f in sorted(findings, key=lambda f: not f.is_error) for e in f.examples]
    at = {(story.stream, story.sample, story.row): index for index, story in enumerate(rows)}
    first = next((at[place] for place in named if place in at), None)
    if first is None:
        first = next((index for index, story in enumerate(rows) if kind_of(story) != "none"), 0)
    part = [story for story in rows if (story.stream, story.sample) == (rows[first].stream, rows[first].sample)]
    if len(part) <= MOST:
        return part
    start = max(0, min(part.index(rows[first]) - 2, len(part) - ROWS))
    return part[start : start + ROWS]


def _counts(part: Sequence[RowStory]) -> str:
    """``10 of 11 rows learn the next token, 1 is not trained and must be``."""
    found = Counter(kind_of(story) for story in part if story.verdict != "none").most_common()
    rows = counted(sum(count for _, count in found), "row")
    noun = f" {rows.partition(' ')[2]}" if len(found) == 1 else f" of {rows}"
    told = [OF_ID[kind].counted(count, "" if number else noun) for number, (kind, count) in enumerate(found)]
    return ", ".join(told) or "no targets"


def _trained(part: Sequence[RowStory], text: Callable[[int], str], top: int) -> Iterator[str]:
    yield from _band(part, text, top, f"What this loss trains: {_counts(part)}")
    heaviest = max(abs(story.weight) for story in part)
    for column, story in enumerate(part):
        kind = kind_of(story)
        strength = round(0.35 + 0.65 * abs(story.weight) / heaviest, 2) if heaviest else 1.0
        if story.target < 0:
            yield _logit(column, top, kind, "", hollow=kind != "none")
            if kind != "none" and story.expected >= 0:
                yield _arrow(column, column + 1, top, kind, dashed=True)
            continue
        if story.offset is not None:
            yield _arrow(column, column + story.offset, top, kind, strength=strength)
        yield _logit(column, top, kind, text(story.target))


def _expected(part: Sequence[RowStory], text: Callable[[int], str], top: int) -> Iterator[str]:
    what = "the next token" if any(story.expected >= 0 for story in part) else "none of these"
    yield from _band(part, text, top, f"What it should train: {what}")
    for column, story in enumerate(part):
        if story.expected >= 0:
            yield _arrow(column, column + 1, top, "right")
        yield _logit(column, top, "right" if story.expected >= 0 else "none", text(story.expected))


def _band(part: Sequence[RowStory], text: Callable[[int], str], top: int, title: str) -> Iterator[str]:
    """The title, the names of the lanes and the tokens."""
    yield f'<text class="title" x="2" y="{top + 20}">{escape(title)}</text>'
    for y, lane in ((TOKENS + 20, "has read"), (LOGITS + 4, "logit"), (TARGETS + 4, "trained on")):
        yield f'<text class="lane" x="2" y="{top + y}">{lane}</text>'
    for column, story in enumerate(part):
        x, word = GUTTER + CELL * column, text(story.token)
        shape = "empty" if story.padding or story.filler else "token"
        height = EDGE - TOKENS
        yield f'<text class="row" x="{x + CELL // 2}" y="{top + NUMBERS}">{story.row}</text>'
        yield f'<rect class="{shape}" x="{x + 3}" y="{top + TOKENS}" width="{CELL - 6}" height="{height}" rx="5"/>'
        yield _word(word, x + CELL // 2, top + TOKENS + 20)


def _logit(column: int, top: int, kind: str, word: str, *, hollow: bool = False) -> str:
    x = GUTTER + CELL * column + CELL // 2
    shape, radius = ("logit hollow" if hollow else "logit"), (2.5 if kind == "none" else 5.5)
    said = _word(word, x, top + TARGETS + 4, "said") if word else ""
    return f'<g class="k-{kind}"><circle class="{shape}" cx="{x}" cy="{top + LOGITS}" r="{radius}"/>{said}</g>'


def _arrow(start: int, end: int, top: int, kind: str, *, strength: float = 1.0, dashed: bool = False) -> str:
    a, b = (GUTTER + CELL * column + CELL // 2 for column in (start, end))
    low, high = top + LOGITS - 8, top + EDGE + 9
    line = f"M{a} {low}C{a} {low - 24} {b} {high + 24} {b} {high}"
    shape = "arrow dashed" if dashed else "arrow"
    head = f"M{b - 5} {high + 2}l5-9 5 9z"
    paths = f'<path class="{shape}" d="{line}"/><path class="head" d="{head}"/>'
    return f'<g class="k-{kind}" opacity="{strength}">{paths}</g>'


def _word(word: str, x: int, y: int, role: str = "word") -> str:
    """A token as it fits into its cell: a space shows, a special token goes without its brackets."""
    shown = word.replace(" ", "␣").removeprefix("<|").removesuffix("|>") or word
    size = "small " if len(shown) > FITS else ""
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    return f'<text class="{size}{role}" x="{x}" y="{y}">{escape(shown)}</text>'
