"""Records: what a run found, with its provenance, as a file that is checked on reading.

A record is ``{schema, kind, provenance, report}`` (preflight, data) or ``{schema, kind, provenance, cases}`` (probe).
Two runs on one machine write the same bytes, except for ``VARYING``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..errors import UsageError
from ..host.files import check_regular, write_json
from ..host.json_text import json_of
from .report import SCHEMA, Report
from .schema import (
    Check,
    MisfitError,
    boolean,
    count,
    label,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    record_of,
    scalar,
    text,
)

__all__ = ["BASELINE_CHECK", "VARYING", "Kind", "Record", "read_record", "record_of_report", "write_record"]

Kind = Literal["preflight", "probe", "data"]
#: What may differ between two runs on one machine: how the command was spelled, and the state of the repository.
VARYING = frozenset({"provenance.command", "provenance.commit", "provenance.dirty"})
#: The check that a comparison adds to a report; like LA701 it is no part of what is compared.
BASELINE_CHECK = "baseline"
#: No record is larger.
LARGEST = 64 << 20

SHAPES = mapping_of(list_of(count, "sizes"), "shapes")
DECISION = record_of({}, {**dict.fromkeys(("pairing", "path", "convention"), optional(label)), "verified": boolean})
STREAM = record_of(
    {"rows": count, "expected": count},
    {
        **dict.fromkeys(("supervised", "missing", "unexpected", "unreadable"), count),
        **dict.fromkeys(("weight_sum", "weight_spread"), number),
        "offsets": mapping_of(count, "counts"),
    },
)
CHECK = record_of({"id": label, "title": text, "status": one_of("pass", "fail", "skip", "error"), "detail": text})
FINDING = record_of(
    {"code": label, "name": label, "severity": one_of("error", "warning", "blind"), "stream": label, "count": count}
)
REPORT = record_of(
    {
        "verdict": one_of("pass", "fail", "incomplete", "error"),
        "checks": list_of(CHECK, "checks"),
        "findings": list_of(FINDING, "findings"),
        "streams": mapping_of(STREAM, "streams"),
        "decision": mapping_of(DECISION, "decisions"),
        "shapes": SHAPES,
        "losses": mapping_of(number, "losses"),
        "environment": mapping_of(scalar, "versions and devices"),
    },
    {
        "error": text,
        "accepted": list_of(FINDING, "findings"),
        "judged": record_of({"targets": count, "streams": count}),
        "data": record_of(
            {
                **dict.fromkeys(("samples", "tokens", "targets", "longest", "unreadable"), count),
                **dict.fromkeys(("kinds", "choices", "shares", "lengths"), mapping_of(count, "counts")),
                "roles": mapping_of(record_of({"tokens": count, "trained": count}), "roles"),
                "answers": record_of({"ended": count, "trained": count}),
                "digest": label,
            }
        ),
    },
)
CASES = mapping_of(
    record_of(
        {"shapes": SHAPES},
        {
            "text": optional(DECISION),
            "audio": optional(DECISION),
            "valid_tokens": mapping_of(count, "counts"),
            "error": text,
        },
    ),
    "cases",
)
#: Per kind of record, the entry that holds what was found, and its shape.
CONTENT: dict[Any, tuple[str, Check]] = {
    "preflight": ("report", REPORT),
    "probe": ("cases", CASES),
    "data": ("report", REPORT),
}


@dataclass(frozen=True)
class Record:
    """What a run found, and where it comes from.

    Attributes:
        kind: ``preflight``, ``probe`` or ``data``.
        provenance: model, hash of its configuration, versions, device, dtype, seed, command, commit, dirty.
        content: the report in its JSON schema, or the cases by name.
        name: the file it was read from; empty if from none.
    """

    kind: Kind
    provenance: dict[str, Any]
    content: dict[str, Any]
    name: str = ""

    def every(self, step: int) -> Record:
        """The record of a quick grid: every ``step``-th case, from the first."""
        return replace(self, content=dict(islice(self.content.items(), 0, None, step)))

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        entry, _ = CONTENT[self.kind]
        return {"schema": SCHEMA, "kind": self.kind, "provenance": self.provenance, entry: self.content}


def record_of_report(report: Report, provenance: dict[str, Any] | None = None) -> Record:
    """The record of a report; without more provenance its environment must do."""
    return Record("data" if report.data else "preflight", provenance or report.environment, report.as_dict())


def write_record(path: str, record: Record) -> None:
    """Write the record whole or not at all."""
    write_json(path, record.as_dict())


def read_record(path: str) -> Record:
    """Read a record, or a plain report of ``loss-align preflight --json``.

    Raises:
        UsageError: names the file, the path inside it, and what was expected there.
    """
    found = _parsed(path, _bytes(path))
    try:
        record_of({"schema": scalar})(found, "")
        if type(found["schema"]) is not int or found["schema"] != SCHEMA:
            raise UsageError(
                f"{path}: schema {ascii(found['schema'])[:20]}, but this loss-align reads schema {SCHEMA}: "
                "record it again with loss-align record"
            )
        return _record(path, found)
    except MisfitError as error:
        raise UsageError(f"{path}: {error}") from error


def _record(path: str, found: dict[str, Any]) -> Record:
    if "kind" not in found:
        if "verdict" not in found:
            raise UsageError(f"{path}: is neither a record nor a report of preflight: it has no kind and no verdict")
        REPORT(found, "")
        return Record("data" if "data" in found else "preflight", found["environment"], found, path)
    one_of(*CONTENT)(found["kind"], "kind")
    entry, shape = CONTENT[found["kind"]]
    record_of({"provenance": mapping_of(scalar, "versions and devices"), entry: shape})(found, "")
    if not found[entry]:
        raise UsageError(f"{path}: {entry}: holds nothing to compare with")
    return Record(found["kind"], found["provenance"], found[entry], path)


def _bytes(path: str) -> bytes:
    check_regular(path)
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # a null character in a path is a ValueError
        raise UsageError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST:
        raise UsageError(f"{path}: is larger than {LARGEST >> 20} MiB, which no record is")
    return content


def _parsed(path: str, content: bytes) -> Any:
    if not content.strip():
        raise UsageError(f"{path}: is empty; write it again with loss-align record")
    try:
        return json_of(content.decode("utf-8-sig"), _not_json)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        ended = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        cut = " (the file is cut off)" if ended else ""
        where = f"line {error.lineno} column {error.colno}"
        raise UsageError(f"{path}: is not JSON: {error.msg} at {where}{cut}") from error
    except ValueError as error:  # nested too deep, a number of too many digits, NaN
        raise UsageError(f"{path}: is not JSON that can be read: {error}") from error


def _not_json(word: str) -> NoReturn:
    raise ValueError(f'{word} is no JSON value; a report writes "{word.lower()}" in quotes')
