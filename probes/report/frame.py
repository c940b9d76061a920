"""The page inside a notebook: a frame that holds all of it, needs no network and can touch nothing around it."""

from __future__ import annotations

from html import escape

from ..records.report import Report
from ..records.verdict import verdict_line
from .html import render

__all__ = ["framed"]

#: Most bytes of the rows: a notebook keeps its output in its file.
ROOM = 300_000
HEIGHT = 640


def framed(report: Report) -> str:
    """The page as a frame; what is left of it where frames are not shown is the verdict."""
    page = render(report, ROOM).replace("&", "&amp;").replace("'", "&#39;").replace("<", "&lt;")
    style = f"width: 100%; height: {HEIGHT}px; border: 0; resize: vertical"
    told = escape(f"loss-align: {verdict_line(report)}")
    return (
        '<iframe sandbox="allow-scripts allow-downloads" title="loss-align: the report" '
        f"style=\"{style}\" srcdoc='{page}'>{told}</iframe>"
    )
