"""``loss-align explain``: token by token, what each logit is trained to predict."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import add_loss_options, add_model_options, finding_filter

if TYPE_CHECKING:
    from ..explain import RowStory
    from ..preflight import Plan
    from ..witness import Witness

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
    group = parser.add_argument_group("what to show")
    group.add_argument("--sample", type=int, default=0, metavar="N", help="the sample of the batch (default 0)")
    group.add_argument("--stream", metavar="NAME", help="text, audio (all codebooks) or audio[K]; default: all")
    group.add_argument("--rows", metavar="A:B", help="rows A to B - 1, none folded; default: all, long gaps folded")
    group.add_argument("--json", metavar="FILE|-", help="write the rows as JSON")
    group.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")
    parser.set_defaults(select=None, ignore=None, strict=None)


def run(args: argparse.Namespace) -> int:
    """Explain one sample; exit code 1 if the loss has an error finding."""
    from ..engine import default_loss
    from ..explain import pick_streams, row_stories
    from ..files import check_writable, write_json
    from ..preflight import CONVENTIONS
    from ..reduction import counted_loss
    from ..report.terminal import console_for, status_line
    from ..witness import Options, witness
    from .preflight import make_plan

    if args.json is not None:
        check_writable(args.json)
    rows = _rows(args.rows)
    keep = finding_filter(args)
    console = console_for(args.json)
    with status_line(console) as progress:
        progress("watching the loss")
        plan = make_plan(args)
        options = Options(convention=CONVENTIONS[plan.labels], withhold=plan.labels == "none")
        named = plan.loss or default_loss(plan.adapter, plan.policy)
        loss_fn = counted_loss(named, plan.model, plan.adapter, plan.batch, options)
        seen = witness(plan.model, plan.adapter, plan.batch, loss_fn, options)
    stories = {
        seen.view.streams[n].name: [s for s in row_stories(seen, n, args.sample) if s.row in rows]
        for n in pick_streams(seen, args.stream)
    }
    findings = [f for f in (*plan.findings, *seen.findings) if keep(f)]
    _show(stories, seen, plan, console, findings, args)
    if args.json is not None:
        told = {name: [story.as_dict() for story in part] for name, part in stories.items()}
        write_json(args.json, {"schema": 1, "rows": told, "findings": [f.as_dict() for f in findings]})
    return 1 if any(f.is_error for f in findings) else 0


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


def _show(
    stories: dict[str, list[RowStory]],
    seen: Witness,
    plan: Plan,
    console: Any,
    findings: list[Any],
    args: argparse.Namespace,
) -> None:
    from ..explain import token_namer
    from ..models.higgs import SPECIAL_IDS, HiggsAdapter
    from ..report.terminal import show_finding
    from ..report.tokens import show_grid, show_rows

    special = SPECIAL_IDS if isinstance(plan.adapter, HiggsAdapter) else {}
    name = token_namer(plan.tokenizer, special)
    text = {stream: part for stream, part in stories.items() if not stream.startswith("audio")}
    audio = [part for stream, part in stories.items() if stream.startswith("audio")]
    long = console.is_terminal and sum(len(part) for part in text.values()) > console.height
    with console.pager(styles=True) if long else nullcontext():
        for stream, part in text.items():
            console.print(f"[bold]{stream}[/], sample {args.sample}")
            show_rows(part, name, console, folded=args.rows is None)
        if audio:
            console.print(f"\n[bold]audio[/], sample {args.sample}")
            show_grid(audio, console)
        for finding in findings:
            show_finding(finding, console)
        for note in seen.notes:
            console.print(f"note: {note}", style="dim", markup=False)
