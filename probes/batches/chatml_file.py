"""Reading a ChatML jsonl file: every mistake is named by file, line and key before released code runs.

The form is that of ``boson_multimodal.data_types`` 0.1.1, which the released loader checks strictly; on
a mistake it prints and drops the sample, or drops a piece of it without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError
from ..host.json_text import json_of
from ..ranks import Place

__all__ = ["LONGEST_SECONDS", "Record", "has_codes", "is_audio", "parts_of", "read_chatml", "shard_of", "where_of"]

#: A check needs a few samples; larger files are refused rather than read into memory.
LARGEST_BYTES = 64 * 2**20
#: The longest single audio.
LONGEST_SECONDS = 3600.0

MESSAGE_KEYS = ("role", "content", "recipient")
TEXT_KEYS = ("type", "text")
AUDIO_KEYS = ("type", "audio_url", "raw_audio", "offset", "duration", "row_id")
#: Roles whose audio the released loader gives a placeholder.
AUDIO_ROLES = ("system", "user", "assistant")
FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
TEXT_PART = '{"type": "text", "text": "..."}'
AUDIO_PART = '{"type": "audio", "audio_url": "..."}'


class Record(dict[str, Any]):
    """One sample of a ChatML file, as a mapping; ``where`` names its file and 1-based line."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (dict(self), self.where)


def where_of(record: dict[str, Any], index: int) -> str:
    """How a message names ``record``: its file and line, or its 1-based number."""
    return getattr(record, "where", f"record {index + 1}")


def parts_of(content: Any) -> list[Any]:
    """The pieces of a message's content: strings, text pieces and audio pieces, in order."""
    return list(content) if isinstance(content, list) else [content]


def is_audio(part: Any) -> bool:
    """Whether a piece of content is an audio."""
    return isinstance(part, dict) and "audio_url" in part


def has_codes(url: str) -> bool:
    """Whether an audio brings its own codes: the path of a ``.npy`` file."""
    return url.endswith(".npy") and "://" not in url


def read_chatml(path: str | Path, *, allow_outside: bool = False) -> list[Record]:
    """Read a ChatML file: one sample a line, or one JSON array of samples; blank lines are skipped, NaN counts as null.

    Args:
        path: of the file.
        allow_outside: whether codes of audio may lie outside the file's folder.

    Returns:
        The samples, each a dict with ``messages`` and, where given, ``start_index``, ``misc``, ``speaker``.

    Raises:
        UsageError: no such file, no UTF-8, over 64 MiB, without a sample, or a line that is no JSON or no
            ChatML sample, or names codes outside the file's folder; the message names file, line and key, and
            what to do.
    """
    path = Path(path)
    folder = None if allow_outside else path.absolute().parent
    text = _text(path)
    if text.lstrip().startswith("["):
        samples = enumerate(_parsed(text, str(path)), start=1)
        records = [_checked(sample, f"{path}, sample {number}", folder) for number, sample in samples]
    else:
        lines = enumerate(text.split("\n"), start=1)
        records = [_record(line, f"{path}, line {number}", folder) for number, line in lines if line.strip()]
    if not records:
        raise UsageError(f"{path} holds no sample: write one JSON object per line, {FORM}")
    return records


def shard_of(records: list[Record], path: str | Path, place: Place) -> list[Record]:
    """The samples of one rank: every world-th, from its own number on, as a DistributedSampler deals them.

    Raises:
        UsageError: fewer samples than ranks.
    """
    if len(records) < place.world:
        raise UsageError(f"{path} has {len(records)} samples for {place.world} ranks: give at least one to each")
    return records[place.rank :: place.world]


def _text(path: Path) -> str:
    """The file's text, size and encoding checked."""
    try:
        if not path.exists():
            raise UsageError(f"no such data file: {path}; name a ChatML jsonl file, one JSON object per line")
        if not path.is_file():
            raise UsageError(f"{path} is not a file; name a ChatML jsonl file, one JSON object per line")
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise UsageError(
                f"{path} has {size / 2**20:.0f} MiB, at most {LARGEST_BYTES // 2**20} MiB are read: a check "
                f"needs a few samples only, e.g. `head -n 8 {path} > few.jsonl`"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}; check its name and permissions") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file, "
            f"e.g. `iconv -f latin1 -t utf-8`"
        ) from error


def _constant(name: str) -> None:
    """NaN is how pandas writes a missing value; an infinity is no value at all."""
    if name != "NaN":
        raise ValueError(f"{name} is no JSON value")


def _record(line: str, where: str, folder: Path | None) -> Record:
    return _checked(_parsed(line, where), where, folder)


def _parsed(text: str, where: str) -> Any:
    try:
        return json_of(text, _constant)
    except ValueError as error:
        raise UsageError(
            f"{where}: no JSON ({error}); each line must hold one whole object, {FORM}, or the file one array of them"
        ) from error


def _checked(sample: Any, where: str, folder: Path | None) -> Record:
    if not isinstance(sample, dict):
        raise UsageError(f"{where}: a JSON {_kind(sample)}, not an object; each line must hold one sample, {FORM}")
    _Check(where, folder).sample(sample)
    return Record(sample, where)


def _kind(value: Any) -> str:
    """What JSON calls the type of ``value``."""
    kinds = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Check:
    """Checks the structure of one line; codes of audio must lie in ``folder``, if there is one."""

    def __init__(self, where: str, folder: Path | None) -> None:
        self.where, self.folder = where, folder

    def fail(self, key: str, problem: str) -> NoReturn:
        raise UsageError(f"{self.where}: {key} {problem}")

    def text(self, key: str, value: Any, advice: str) -> None:
        """A string that can be encoded: JSON can hold half a surrogate pair, UTF-8 cannot."""
        if not isinstance(value, str):
            self.fail(key, f"is {_shown(value)}, not a string; {advice}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            self.fail(key, f"holds half a surrogate pair at character {error.start}; write the character itself")

    def known(self, key: str, value: dict[str, Any], keys: Iterable[str]) -> None:
        unknown = sorted(set(value) - set(keys))
        if unknown:
            advice = f"the released loader drops the sample for it; known are {', '.join(keys)}"
            self.fail(f"{key}.{unknown[0]}", f"is unknown: {advice}")

    def integer(self, key: str, value: Any, advice: str) -> None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self.fail(key, f"is {_shown(value)}, not an integer or null; {advice}")

    def seconds(self, key: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.fail(key, f"is {_shown(value)}, not a number or null; give seconds")
        if not (math.isfinite(value) and 0 <= value <= LONGEST_SECONDS):
            self.fail(key, f"is {value} s, outside 0 to {LONGEST_SECONDS:.0f}; give seconds, or cut the audio")

    def sample(self, sample: dict[str, Any]) -> None:
        if "messages" not in sample:
            self.fail("messages", f"is missing; the form is {FORM}")
        messages = sample["messages"]
        if not isinstance(messages, list) or not messages:
            self.fail("messages", f"is {_shown(messages)}, not a list of at least one message; the form is {FORM}")
        for number, message in enumerate(messages):
            self.message(f"messages[{number}]", message)
        start = sample.get("start_index")
        self.integer("start_index", start, "give the number of messages not to train on")
        if start is not None and start < 0:
            self.fail(
                "start_index",
                f"is {start}, below 0: the released loader trains every turn then; give 0 or more",
            )
        if sample.get("speaker") is not None:
            self.text("speaker", sample["speaker"], "give the speaker's name, or leave it out")
        if not isinstance(sample.get("misc"), (dict, type(None))):
            self.fail("misc", f"is {_shown(sample['misc'])}, not an object or null; leave it out")

    def message(self, key: str, message: Any) -> None:
        if not isinstance(message, dict):
            self.fail(key, f"is {_shown(message)}, not an object; write {FORM}")
        self.known(key, message, MESSAGE_KEYS)
        for name in ("role", "content"):
            if name not in message:
                self.fail(f"{key}.{name}", "is missing; every message has a role and a content")
        role, recipient = message["role"], message.get("recipient")
        self.text(f"{key}.role", role, "use system, user or assistant")
        if recipient is not None:
            self.text(f"{key}.recipient", recipient, "name who the turn is for, or leave it out")
        if recipient and role != "assistant":
            self.fail(
                f"{key}.recipient",
                f"stands on a turn of {role!r}; only assistant turns may have one, remove it",
            )
        content = message["content"]
        for number, part in enumerate(parts_of(content)):
            self.part(f"{key}.content[{number}]" if isinstance(content, list) else f"{key}.content", part, role)

    def part(self, key: str, part: Any, role: str) -> None:
        """A string, a text piece or an audio piece."""
        if not isinstance(part, dict):
            self.text(key, part, f"write a string, {TEXT_PART}, {AUDIO_PART} or a list of these")
        elif is_audio(part):
            self.audio(key, part, role)
        elif "text" in part:
            self.known(key, part, TEXT_KEYS)
            self.text(f"{key}.text", part["text"], "write the text")
            self.type(key, part, "text")
        else:
            self.fail(key, f"has neither text nor audio_url; write {TEXT_PART} or {AUDIO_PART}")

    def type(self, key: str, part: dict[str, Any], expected: str) -> None:
        if part.get("type", expected) != expected:
            self.fail(f"{key}.type", f"is {_shown(part['type'])}; with these keys it must be {expected!r}")

    def inside(self, key: str, url: str) -> None:
        """A path that leads nowhere but into the data file's own folder, links followed."""
        if self.folder is None:
            return
        try:
            outside = not (self.folder / url).resolve().is_relative_to(self.folder.resolve())
        except (OSError, ValueError, RuntimeError) as error:
            self.fail(key, f"is {_shown(url)}, no path that can be followed ({error})")
        if outside:
            self.fail(key, f"is {_shown(url)}, outside the folder of the data file; if that is meant, --allow-outside")

    def audio(self, key: str, part: dict[str, Any], role: str) -> None:
        self.known(key, part, AUDIO_KEYS)
        self.type(key, part, "audio")
        self.text(f"{key}.audio_url", part["audio_url"], "give a path or an address")
        if has_codes(part["audio_url"]):
            self.inside(f"{key}.audio_url", part["audio_url"])
        if part.get("raw_audio") is not None:
            self.text(f"{key}.raw_audio", part["raw_audio"], "give base64 text, or leave it out")
        self.seconds(f"{key}.offset", part.get("offset"))
        self.seconds(f"{key}.duration", part.get("duration"))
        self.integer(f"{key}.row_id", part.get("row_id"), "leave it out")
        if role not in AUDIO_ROLES:
            advice = f"the released loader writes no placeholder for it; use {', '.join(AUDIO_ROLES)}"
            self.fail(key, f"is audio on a turn of {role!r}: {advice}")
