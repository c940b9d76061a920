"""The jury: what the own loss of every transformers class with an output head trains, against what is expected.

``python tests/probes/jury.py`` runs the classes of the installed transformers, prints those that deviate and
those that cannot run, each with its reason, and counts; ``--json FILE`` writes all of it, and ``--table FILE...``
prints the table of docs/jury.md from such files. It exits 1 if a class trains anything that is not expected, and 2
on a class that transformers does not have or a file that cannot be read or written.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from jury_codes import CODES
from lm_batches import batch_for
from lm_tiny import OLD, tiny_model
from lm_zoo import DEVIATES, HEADS, LOSSES, OF_DEFAULTS, all_classes
from lm_zoo import NOT_RUN as NO_TEXT
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from alignment import Supervision
from probes.errors import UsageError
from probes.host.files import check_writable
from probes.models import Batch, adapter_for
from probes.models.small import small_model
from probes.witness.witness import Witness, witness

#: A step of four times the batch's targets: as with four micro-batches of one size.
ACCUMULATION = 4
#: What every batch of text has, or may have without any image.
TEXT_INPUTS = frozenset(("input_ids", "attention_mask", "labels", "mm_token_type_ids"))
#: Classes that no batch of text fits; those of codes have one of their own.
NOT_RUN = {name: reason for name, reason in NO_TEXT.items() if name not in CODES}


@dataclass(frozen=True)
class Verdict:
    """What is known of one class.

    Attributes:
        name: of the class.
        status: ``right``, ``deviates`` (as expected), ``not run`` (as expected) or ``wrong``.
        offset: the one offset of all its trained rows, in all streams; None if it did not run or has several.
        findings: codes of what the tool says of its own loss.
        inputs: what it was given besides text, masks and labels.
        count: what it does with ``num_items_in_batch``: ``1/N`` (divides by it), ``dropped`` (takes it and does not),
            ``not passed`` (Trainer does not hand it over, and divides by the steps instead).
        shift_labels: ``taken``, ``dropped``, or ``not passed`` (the forward takes no further keywords).
        reason: why it deviates, is not run, or is wrong.
    """

    name: str
    status: str
    offset: int | None = None
    findings: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    count: str = ""
    shift_labels: str = ""
    reason: str = ""


Loss = Callable[..., Tensor]


def own_loss(model: nn.Module, batch: Batch, **kwargs: Any) -> Tensor:
    """The loss that a model computes itself."""
    return model(**batch, **kwargs).loss


def every_class() -> list[str]:
    """The classes of text, and those of codes that this transformers has."""
    codes = [name for name in CODES if not OLD and hasattr(transformers, name)]
    return list(dict.fromkeys([*all_classes(), *codes]))


# -- one class ----------------------------------------------------------------------------------------


def judge(name: str) -> Verdict:
    """Run one class; whatever is not expected makes it ``wrong``."""
    try:
        model, batch = CODES[name]() if name in CODES else (small_instance(name), batch_for(name))
        loss = LOSSES.get(name, own_loss)
        seen = _watch(name, model, batch, loss)
        offset = one_offset(seen)
    except Exception as error:  # noqa: BLE001 - one class in hundreds, of which many cannot be built
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if name in NOT_RUN:
            return Verdict(name, "not run", reason=NOT_RUN[name])
        return Verdict(name, "wrong", reason=f"did not run: {said[:300]}")
    findings = tuple(finding.code for finding in seen.findings)
    expected, codes, reason = DEVIATES.get(name, (1, (), ""))
    made = partial(
        Verdict,
        name,
        offset=offset,
        findings=findings,
        inputs=tuple(sorted(key for key in batch if key not in TEXT_INPUTS and batch[key] is not None)),
        count=_count(name, model, batch, loss, seen),
        shift_labels=_shift_labels(name, model, batch, loss),
    )
    unexpected = _unexpected(name, seen, offset, findings, (expected, codes))
    if unexpected:
        return made("wrong", reason=unexpected)
    return made("deviates" if name in DEVIATES else "right", reason=reason)


def small_instance(name: str) -> nn.Module:
    """Small by the names of its sizes; where these depend on each other, by its own default configuration."""
    if name not in OF_DEFAULTS:
        return tiny_model(name)
    model_class = getattr(transformers, name)
    return small_model(model_class.config_class(), model_class=model_class)


def _watch(name: str, model: nn.Module, batch: Batch, loss: Loss) -> Witness:
    seen = witness(model, adapter_for(model, HEADS.get(name, ())), batch, loss)
    if not seen.actual:
        raise RuntimeError("; ".join(finding.message for finding in seen.findings))
    return seen


def _rows(actual: Supervision) -> Tensor:
    """All trained rows but those that end a segment: nothing follows them."""
    return actual.trained & actual.stream.follows() & (actual.source >= 0)


def one_offset(seen: Witness) -> int | None:
    """The offset of all trained rows; None if there are several, or none."""
    offsets = torch.cat([actual.offset[_rows(actual)] for actual in seen.actual]).unique().tolist()
    return offsets[0] if len(offsets) == 1 else None


def _weights(seen: Witness) -> Tensor:
    """The weights of all rows of all streams."""
    return torch.cat([actual.weight for actual in seen.actual])


def _unexpected(
    name: str, seen: Witness, offset: int | None, findings: tuple[str, ...], expected: tuple[int, tuple[str, ...]]
) -> str:
    if name in NOT_RUN:
        return "it runs, and NOT_RUN says it does not"
    if (offset, findings) != expected:
        said = "; ".join(finding.message for finding in seen.findings)
        return f"offset {offset}, findings {findings} for {expected}: {said}"
    total = float(_weights(seen).sum())
    one = len(seen.actual) > 1 or abs(total - 1) < 2e-3  # models of codes add up means, each in its own way
    return "" if one else f"its weights add up to {total} for 1"


def _takes_keywords(model: nn.Module) -> bool:
    parameters = inspect.signature(type(model).forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _count(name: str, model: nn.Module, batch: Batch, loss: Loss, alone: Witness) -> str:
    """What the class makes of the number of targets of a whole step, if Trainer hands it over at all."""
    if not getattr(model, "accepts_loss_kwargs", _takes_keywords(model)):
        return "not passed"
    targets = sum(int(actual.trained.sum()) for actual in alone.actual)
    given = torch.tensor(ACCUMULATION * targets)
    try:
        weight = _weights(_watch(name, model, batch, partial(loss, num_items_in_batch=given)))
    except Exception as error:  # noqa: BLE001 - as above
        return f"raises {type(error.__cause__ or error).__name__}"
    before = _weights(alone)
    for word, factor in (("1/N", ACCUMULATION), ("dropped", 1)):
        if torch.allclose(weight * factor, before, rtol=1e-3, atol=0):
            return word
    return f"sum {float(weight.sum()):.4g}"


def _shift_labels(name: str, model: nn.Module, batch: Batch, loss: Loss) -> str:
    """Whether labels handed over shifted, of which the first sample's are masked, take the place of the others."""
    if name in CODES or getattr(model.config, "is_encoder_decoder", False):
        return ""
    if not _takes_keywords(model):
        return "not passed"
    shifted = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    shifted[0] = -100
    try:
        seen = _watch(name, model, batch, partial(loss, shift_labels=shifted))
    except Exception as error:  # noqa: BLE001 - as above
        return f"raises {type(error.__cause__ or error).__name__}"
    trained = seen.actual[0].trained.reshape(batch["labels"].shape)
    return "dropped" if bool(trained[0].any()) else "taken"


# -- telling ------------------------------------------------------------------------------------------


def counts_of(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many classes there are, ran, are right, deviate, cannot run, are wrong."""
    rows = list(verdicts)
    status = Counter(row["status"] for row in rows)
    return {
        "classes": len(rows),
        "run": len(rows) - status["not run"],
        "right": status["right"],
        "deviating with a reason": status["deviates"],
        "not run, with a reason": status["not run"],
        "wrong": status["wrong"],
        "with images or audio": sum(bool(row["inputs"]) for row in rows),
        "dropping num_items_in_batch": sum(row["count"] == "dropped" for row in rows),
        "dropping shift_labels": sum(row["shift_labels"] == "dropped" for row in rows),
    }


def record_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All that was seen, as it is written down."""
    rows = [asdict(verdict) for verdict in sorted(verdicts, key=lambda one: one.name)]
    return {"transformers": transformers.__version__, "counts": counts_of(rows), "classes": rows}


def written(record: Mapping[str, Any]) -> str:
    """A record as JSON, one class a line."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in record["classes"])
    head = json.dumps({key: value for key, value in record.items() if key != "classes"}, indent=1)
    return f'{head[:-2]},\n "classes": [\n{rows}\n ]\n}}\n'


def _cell(row: Mapping[str, Any] | None) -> str:
    """Offset, and what is dropped, of one class in one version."""
    if row is None:
        return ""
    if row["status"] == "not run":
        return "not run"
    dropped = [word for key, word in (("count", "N"), ("shift_labels", "S")) if row[key] == "dropped"]
    offset = "?" if row["offset"] is None else f"{row['offset']:+d}".replace("+0", "0")
    said = f"**{offset}** {' '.join(dict.fromkeys(row['findings']))}" if row["status"] != "right" else offset
    return f"{said} {' '.join(dropped)}".strip()


def markdown_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Counts, and one row per class, of several versions side by side."""
    versions = [record["transformers"] for record in records]
    head = f"| {{}} | {' | '.join(versions)} |\n|---|{'---|' * len(versions)}"
    keys = dict.fromkeys(key for record in records for key in record["counts"])
    counts = [f"| {key} | {' | '.join(str(record['counts'].get(key, '')) for record in records)} |" for key in keys]
    found = [{row["name"]: row for row in record["classes"]} for record in records]
    names = sorted({name for rows in found for name in rows}, key=str.lower)
    classes = []
    for name in names:
        rows = [rows.get(name) for rows in found]
        known = [row for row in rows if row]
        inputs = ", ".join(dict.fromkeys(key for row in known for key in row["inputs"] if _is_signal(key)))
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in known if row["reason"]))
        classes.append(f"| {name} | {' | '.join(map(_cell, rows))} | {inputs} | {reasons} |")
    table = f"| class | {' | '.join(versions)} | beside text | reason |\n|---|{'---|' * len(versions)}---|---|"
    return "\n".join([head.format("transformers"), *counts, "", table, *classes, ""])


def _is_signal(key: str) -> bool:
    return key.startswith(("pixel_values", "input_features", "input_values", "flattened_patches", "encoder_inputs"))


def _print(verdicts: Sequence[Verdict], console: Console) -> None:
    table = Table("class", "status", "offset", "findings", "reason")
    for one in sorted(verdicts, key=lambda one: (one.status, one.name)):
        if one.status != "right":
            offset = "" if one.offset is None else f"{one.offset:+d}"
            table.add_row(one.name, one.status, offset, " ".join(one.findings), one.reason)
    console.print(table)
    for key in ("count", "shift_labels"):
        dropped = [one.name for one in verdicts if getattr(one, key) == "dropped"]
        what = {"count": "num_items_in_batch", "shift_labels": "shift_labels"}[key]
        console.print(f"{what} taken and dropped by {len(dropped)}: {', '.join(dropped) or 'none'}", highlight=False)
    counts = ", ".join(f"{value} {key}" for key, value in record_of(verdicts)["counts"].items())
    console.print(f"transformers {transformers.__version__}: {counts}", highlight=False)


def _unknown(names: Sequence[str]) -> Iterator[str]:
    """What to say of names that are no model class of the installed transformers."""
    for name in names:
        found = getattr(transformers, name, None)
        if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
            near = difflib.get_close_matches(name, every_class(), 1)
            hint = f": did you mean {near[0]}?" if near else ""
            yield f"transformers {transformers.__version__} has no model class {name}{hint}"


def _record_in(path: Path, parser: argparse.ArgumentParser) -> Any:
    """A record as ``--json`` wrote it; ends the command on any other file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{path} cannot be read ({error}): pass files that --json wrote")
    if not isinstance(record, dict) or not {"transformers", "counts", "classes"} <= set(record):
        parser.error(f"{path} is no record of the jury: pass files that --json wrote")
    return record


def main() -> int:
    """Run every class of the installed transformers, or print the table of what several versions gave."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="classes; all if none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all verdicts to a file")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print the table of such files")
    args = parser.parse_args()
    if args.table:
        print(markdown_of([_record_in(path, parser) for path in args.table]), end="")
        return 0
    for problem in _unknown(args.names):
        parser.error(problem)
    if args.json:
        try:
            check_writable(str(args.json))
        except UsageError as error:
            parser.error(str(error))
    logging.disable()
    warnings.simplefilter("ignore")  # of one class in hundreds: none of ours
    console = Console()
    verdicts = [judge(n) for n in track(args.names or every_class(), "the jury", console=console, transient=True)]
    _print(verdicts, console)
    if args.json:
        args.json.write_text(written(record_of(verdicts)), encoding="utf-8")
    return int(any(one.status == "wrong" for one in verdicts))


if __name__ == "__main__":
    sys.exit(main())
