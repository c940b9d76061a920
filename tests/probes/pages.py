"""Reports that pages are made of, and what a page holds."""

import json
import re
from dataclasses import replace

from alignment.findings import Example, finding
from probes.records.row_story import RowStory
from probes.report import Check, Report

__all__ = ["EVIL", "mixed", "report", "story", "told"]

#: Text that becomes markup wherever it is not escaped.
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`&\u2028"


def story(row, verdict="copy", **changes):
    plain = {
        "right": {"target": row + 101, "expected": row + 101, "offset": 1},
        "copy": {"target": row + 100, "expected": row + 101, "offset": 0},
        "none": {"target": -1, "expected": -1, "offset": None},
    }.get(verdict, {"target": -1, "expected": row + 101, "offset": None})
    base = RowStory(
        "text", 0, row, row + 100, **plain, weight=0.1, verdict=verdict, padding=False, filler=False, segment=0
    )
    return replace(base, **changes)


def report(rows, **changes):
    return Report(
        checks=[Check("pairing-text", "Each text logit", "fail", "LA102")],
        findings=[finding("LA102", "text", "copies", count=2, examples=(Example("text", 0, 3, 103, 104, 3),))],
        streams={"text": {"rows": len(rows), "expected": 2, "offsets": {"0": 2}}},
        environment={"model": "tiny"},
        rows=lambda: rows,
        **changes,
    )


def mixed():
    text = [story(row, "none") for row in range(50)] + [story(row) for row in range(50, 60)]
    other = [story(row, "right", sample=1) for row in range(20)]
    audio = [story(row, "right", stream=f"audio[{k}]") for k in range(2) for row in range(12)]
    rows = [*text, *other, *audio]
    one = report(rows)
    one.streams["audio[0]"] = one.streams["audio[1]"] = {"rows": 12}
    one.streams["text"]["rows"] = len(text) + len(other)
    one.findings = [finding("LA102", "text", "copies", count=10, examples=(Example("text", 0, 55, 155, 156, 55),))]
    return one


def told(page):
    """The rows that a page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[1])
