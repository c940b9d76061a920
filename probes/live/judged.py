"""What a watcher has seen, judged: the report of a loop that is not ours, behind ``run`` and behind its callbacks."""

from __future__ import annotations

from typing import Any

from alignment.findings import Finding, finding

from ..checks.adapter_step import frozen_adapters
from ..checks.reduction import Reduction
from ..errors import UsageError, ending
from ..models.adapter import OtherCheckpointError
from ..models.modules import unwrapped
from ..records.choice import Choice
from ..records.report import Report, error_report, unread_report
from ..report.words import in_words
from .again import add_causality_of, add_cut_off
from .observed import Nothing, observe
from .teachers import add_soft
from .tokenizers import tokenizer_of_script
from .told import circumstances, nothing_seen, report_on
from .watcher import Watcher

__all__ = ["report_of_watched"]


def report_of_watched(
    watcher: Watcher, template: Any, keep: Choice, tokenizer: Any = None, reduction: Reduction | None = None
) -> Report:
    """What the watched steps train.

    Args:
        watcher: one that has finished, and has not failed.
        template: what else is known of the text; None if nothing is.
        keep: which findings count.
        tokenizer: to write tokens with; the one that the script has loaded if None.
        reduction: what the weights of a step are declared to keep to; None if nothing is.
    """
    try:
        steps = watcher.steps or ([watcher.answered] if watcher.answered else [])
        if watcher.found is None or not steps:
            return unread_report(nothing_seen(watcher), keep)
        alone, stepped = not watcher.several, bool(watcher.steps)
        observed = observe(steps, stepped=stepped, template=template, alone=alone, reduction=reduction)
    except Nothing as reason:
        return unread_report(str(reason), keep)
    except (OtherCheckpointError, UsageError) as error:  # as every other door refuses it
        return error_report(*ending(error))
    watcher.step_weights = list(observed.weights)
    root, adapter = watcher.found.root, observed.adapter or watcher.found.adapter
    observed.add([_unwatched(name, type(unwrapped(root)).__name__) for name in watcher.unwatched])
    heads = [head.module for head in adapter.heads(root, observed.witness.view)]
    if watcher.beside is not None:
        observed.add(watcher.beside.findings(heads))
    report = report_on(observed, root, adapter, keep)
    if watcher.beside is not None:
        known = " ".join(report.notes)
        report.notes += [note for note in watcher.beside.notes(heads) if note not in known]
    report.add(frozen_adapters(root), keep)
    add_cut_off(report, observed.forwards, observed.parts, watcher.ungraded, keep)
    trained = {one.stream.name: int((one.trained | one.soft).sum()) for one in observed.witness.actual}
    add_soft(report, observed.forwards, trained, keep)
    add_causality_of(report, observed.forwards, observed.parts, keep)
    if watcher.lines is not None:
        watcher.lines.add_to(report, observed)
    report.notes += [*circumstances(watcher), *keep.notes]
    text = next((one for one in observed.witness.view.streams if not one.is_audio and len(one)), None)
    if tokenizer is None and text is not None:
        tokenizer = tokenizer_of_script(text.vocab, int(text.ids.max()))
    in_words(report, tokenizer, adapter.special_ids)
    return report


def _unwatched(name: str, watched: str) -> Finding:
    message = f"{name} is trained by an optimizer as well, and of one run one model is watched: here {watched}"
    return finding("LA801", name, message)
