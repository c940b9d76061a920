"""One sample of a data set, whatever form it came in: ids, labels that name them, and roles where they are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alignment.labels import IGNORE_INDEX

from ..errors import UsageError
from ..models.loss_masks import MASKS
from ..roles import Rendered, conversation_of, trained
from .known import Known

__all__ = ["Sample", "samples_of"]


@dataclass(frozen=True)
class Sample:
    """One sample, without its padding.

    Attributes:
        ids: its tokens.
        labels: of the same length, as they were given; None where nothing says what is trained.
        where: file and line, or batch and row, for messages.
        told: the roles of its tokens, where the conversation itself is known.
        padded: labels that lay on its padding.
        cut: whether its end was cut off to fit.
        silent: whether one of its answers says nothing.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    where: str
    told: Rendered | None = None
    padded: int = 0
    cut: bool = False
    silent: bool = False


def samples_of(item: Any, where: str, known: Known) -> Iterator[Sample]:
    """The samples of one item of a data set: a batch, a row of token ids, or a conversation in any of its forms.

    Raises:
        UsageError: no known form, shapes that do not fit, or a conversation without a tokenizer.
    """
    if isinstance(item, Mapping) and "input_ids" in item:
        yield from _tokens(item, where)
    elif known.tokenizer is None:
        keys = f"it has {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
        raise UsageError(f"{where}: no input_ids ({keys}); text needs a tokenizer: name its folder with --tokenizer")
    else:
        yield _conversation(item, where, known)


def _conversation(item: Any, where: str, known: Known) -> Sample:
    conversation = conversation_of(item, where)
    text = known.writer.rendered(conversation)
    ids, on = text.ids, trained(text, known.train_on or "assistant")
    limit = known.longest or len(ids)
    labels = tuple(token if yes else IGNORE_INDEX for token, yes in zip(ids, on, strict=True))
    silent = any(map(_is_silent, conversation.messages)) or not (conversation.text or ("", "-"))[1].strip()
    return Sample(ids[:limit], labels[:limit], where, _shortened(text, limit), cut=any(on[limit:]), silent=silent)


def _is_silent(message: Mapping[str, Any]) -> bool:
    """Whether an answer has neither text nor a call."""
    said = message["content"]
    return message["role"] == "assistant" and not (str(said).strip() if said else "") and not message.get("tool_calls")


def _shortened(text: Rendered, limit: int) -> Rendered:
    if len(text.ids) <= limit:
        return text
    return Rendered(text.ids[:limit], text.roles[:limit], text.turns[:limit], text.where)


def _tokens(item: Mapping[str, Any], where: str) -> Iterator[Sample]:
    ids = _listed(item["input_ids"], where, "input_ids")
    given = {key: _listed(item[key], where, key) for key in ("labels", *MASKS) if item.get(key) is not None}
    mask = None if item.get("attention_mask") is None else _listed(item["attention_mask"], where, "attention_mask")
    places = None if item.get("position_ids") is None else _listed(item["position_ids"], where, "position_ids")
    if not ids or not isinstance(ids[0], list):
        yield from _row(ids, given, mask, places, where)
        return
    for number, row in enumerate(ids):
        here = f"{where}, row {number}"
        parts = {key: _part(value, number, here, key) for key, value in given.items()}
        yield from _row(row, parts, _part(mask, number, here, "attention_mask"), _part(places, number, here, ""), here)


def _row(
    ids: list[int], given: Mapping[str, list[int]], mask: list[int] | None, places: list[int] | None, where: str
) -> Iterator[Sample]:
    """One row: without its padding, and a sample for each document that is packed into it."""
    labels = _labels(ids, given, where)
    if mask is not None and len(mask) != len(ids):
        mask = None  # a mask of blocks, or of another stream
    real = [at for at in range(len(ids)) if mask is None or mask[at]]
    padded = 0 if labels is None or mask is None else _outside(labels, mask)
    begins = [at for at in real if places is not None and len(places) == len(ids) and places[at] == 0]
    if len(begins) < 2:
        begins = real[:1]
    for number, begin in enumerate(begins or [0]):
        end = begins[number + 1] if number + 1 < len(begins) else len(ids)
        part = [at for at in real if begin <= at < end]
        told = None if labels is None else tuple(labels[at] for at in part)
        named = f"{where}, document {number}" if len(begins) > 1 else where
        yield Sample(tuple(ids[at] for at in part), told, named, padded=padded if number == 0 else 0)


def _outside(labels: list[int], mask: list[int]) -> int:
    """Labels on padding; where labels are shifted ahead, the last real row names the first padded token by right."""
    return sum(label != IGNORE_INDEX and not real for label, real in zip(labels, mask, strict=True))


def _labels(ids: list[int], given: Mapping[str, list[int]], where: str) -> list[int] | None:
    """The labels, or those that a mask of one's own stands for."""
    for key, value in given.items():
        if len(value) != len(ids):
            raise UsageError(f"{where}: {key} has {len(value)} entries, input_ids {len(ids)}")
    if "labels" in given:
        return given["labels"]
    mask = next((given[key] for key in MASKS if key in given), None)
    return None if mask is None else [token if on else IGNORE_INDEX for token, on in zip(ids, mask, strict=True)]


def _listed(value: Any, where: str, key: str) -> list[Any]:
    """Whatever holds numbers, as lists of them."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where}: {key} is a {type(value).__name__}, not a list of token ids")
    if value and (isinstance(value[0], (list, tuple)) or hasattr(value[0], "tolist")):
        return [_listed(row, where, key) for row in value]
    wrong = next((one for one in value if not isinstance(one, (int, float)) or int(one) != one), 0)
    if wrong != 0:
        raise UsageError(f"{where}: {key} holds {str(wrong)[:40]!r}, which is no token id")
    return list(map(int, value))


def _part(value: list[Any] | None, number: int, where: str, key: str) -> Any:
    if value is None:
        return None
    if key and (number >= len(value) or not isinstance(value[number], list)):
        raise UsageError(f"{where}: {key} has no row {number}")
    return value[number] if number < len(value) and isinstance(value[number], list) else None
