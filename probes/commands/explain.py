"""``loss-align explain``: token by token, what each logit is trained to predict."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import add_loss_options, add_model_options, add_outputs, add_replay, finding_filter

if TYPE_CHECKING:
    from ..checks.preflight import Plan
    from ..records.row_story import RowStory
    from ..report import Report
    from ..witness.witness import Witness

NAME = "explain"
HELP = "token by token: input, what its logit is trained to predict, expected, verdict"
DESCRIPTION = (
    "Token by token for one sample: the input token, what its logit is trained to predict, what it should predict, "
    "weight and verdict; audio as a grid of codebooks and frames. Takes the options of preflight."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model and loss options, and what to show."""
    add_model_options(parser)
    add_loss_options(parser)
    add_replay(parser)
    group = parser.add_argument_group("what to show")
    group.add_argument("--sample", type=int, default=0, metavar="N", help="the sample of the batch (default 0)")
    group.add_argument("--stream", metavar="NAME", help="text, audio (all codebooks) or audio[K]; default: all")
    group.add_argument("--rows", metavar="A:B", help="rows A to B - 1, none folded; default: all, long gaps folded")
    add_outputs(group, "json", "html")
    group.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")
    parser.set_defaults(select=None, ignore=None, strict=None)


def run(args: argparse.Namespace) -> int:
    """Explain one sample; exit code 1 if the loss has an error finding, 4 if only a blind spot."""
    from ..checks.causality import causality
    from ..records.report import EXIT
    from ..report.explain import pick_streams, row_stories
    from ..report.outputs import checked_outputs, standard_output, write_outputs
    from ..report.terminal import console_for, status_line
    from .preflight import make_plan

    outputs = checked_outputs(args)
    rows = _rows(args.rows)
    keep = finding_filter(args)
    console = console_for(standard_output(outputs))
    with status_line(console) as progress:
        progress("watching the loss")
        plan = make_plan(args)
        plan.keep = keep
        watched = plan.watched()
        plan.adapter, seen = watched.subject.adapter, watched.subject.seen
    stories = {
        seen.view.streams[n].name: [s for s in row_stories(seen, n, args.sample) if s.row in rows]
        for n in pick_streams(seen, args.stream)
    }
    if not any(stories.values()):
        last = max(int(seen.view.streams[n].row.max()) for n in pick_streams(seen, args.stream))
        raise UsageError(f"--rows {args.rows}: no such row; they are counted from 0 to {last}")
    report = _report(plan, seen, stories)
    report.notes += keep.notes
    cuts = causality(watched.subject, replays=plan.replay, seed=plan.seed, drawn=args.sample)
    report.causality = {} if cuts is None else cuts.as_dict()
    _show(stories, report, console, args)
    told = {name: [story.as_dict() for story in part] for name, part in stories.items()}
    findings = [finding.as_dict() for finding in report.findings]
    shown = {"schema": 1, "rows": told, "causality": report.causality, "findings": findings}
    write_outputs(outputs, report, shown)
    if any(f.is_error for f in report.findings):
        return EXIT["fail"]
    return EXIT["incomplete" if any(f.is_blind for f in report.findings) else "pass"]


def _report(plan: Plan, seen: Witness, stories: dict[str, list[RowStory]]) -> Report:
    """The report of the witness alone, over the rows that were picked."""
    from ..report.words import in_words

    report = plan.report_of(seen, [*plan.findings, *seen.findings])
    report.notes += plan.notes
    report.rows = lambda: [story for part in stories.values() for story in part]
    in_words(report, plan.tokenizer, plan.adapter.special_ids)
    return report


def _rows(text: str | None) -> range:
    """The rows of ``--rows A:B``.

    Raises:
        UsageError: not of that form.
    """
    if text is None:
        return range(1 << 40)
    first, colon, last = text.partition(":")
    if not colon or any(part and not part.isdigit() for part in (first, last)):
        raise UsageError(f"--rows {text!r} must be A:B, as in 90:140")
    return range(int(first or 0), int(last) if last else 1 << 40)


def _show(stories: dict[str, list[RowStory]], report: Report, console: Any, args: argparse.Namespace) -> None:
    from ..report.strips import show_maps, show_strips
    from ..report.terminal import show_finding, show_notes
    from ..report.tokens import show_grid, show_rows

    text = {stream: part for stream, part in stories.items() if not stream.startswith("audio")}
    audio = [part for stream, part in stories.items() if stream.startswith("audio")]
    long = console.is_terminal and sum(len(part) for part in text.values()) > console.height
    with console.pager(styles=True) if long else nullcontext():
        for stream, part in text.items():
            console.print(f"[bold]{stream}[/], sample {args.sample}")
            show_rows(part, report.token_name, console, folded=args.rows is None)
        if audio:
            console.print(f"\n[bold]audio[/], sample {args.sample}")
            show_grid(audio, console)
        show_maps(report.causality, console, args.sample, list(stories))
        show_strips(report.causality, console, args.sample)
        for finding in report.findings:
            show_finding(finding, console, report.told)
        show_notes(report.notes, console)
