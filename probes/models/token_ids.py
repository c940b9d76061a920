"""Which ids mean something special to a model: read off its configuration, at any depth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["end_ids", "placeholder_ids", "special_ids", "text_config", "vocabulary_sizes"]

#: Configuration entries that hold token ids: ``eos_token_id``, ``image_token_index``, ``bos_token_ids`` ...
TOKEN = re.compile(r".*token_(id|ids|index|idx)$|.*_(bos|eos|pad|start|end)_id$")
#: Of these, the tokens that stand for an input of another modality, one per frame or patch.
PLACEHOLDER = re.compile(
    r"(image|video|audio|speech|sound|vision|media|patch|pixel)(_(patch|pad|placeholder|content|latent))?_token_(id|index|idx)$"
)


def special_ids(model: Any) -> set[int]:
    """Every token id that the model's configuration names: padding, begin, end, placeholders, languages."""
    found = {number for name, number in _entries(model) if TOKEN.match(name)}
    return found | set(placeholder_ids(model)) | set(end_ids(model))


def vocabulary_sizes(model: Any) -> set[int]:
    """The sizes of the vocabularies that a configuration names."""
    return {number for name, number in _entries(model) if name.endswith("vocab_size")}


def placeholder_ids(model: Any) -> tuple[int, ...]:
    """Ids that stand for images, audio or video and are never a target."""
    return tuple(sorted({number for name, number in _entries(model) if PLACEHOLDER.match(name)}))


def end_ids(model: Any) -> tuple[int, ...]:
    """The ids that end a text: ``eos_token_id`` of the text configuration, one or several."""
    for config in (text_config(model), getattr(model, "config", None)):
        ends = tuple(_numbers(getattr(config, "eos_token_id", None)))
        if ends:
            return ends
    return ()


def text_config(model: Any) -> Any:
    """The part of a configuration that describes the text decoder; None for a model without one."""
    config = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return config
    try:
        return config.get_text_config(decoder=True)
    except ValueError:  # several candidates: the model is none of the usual kinds
        return config


def _entries(model: Any) -> Iterator[tuple[str, int]]:
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        yield from _walk(config.to_dict() if hasattr(config, "to_dict") else {})


def _walk(values: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _walk({str(key): inner for key, inner in value.items()})
        else:
            for number in _numbers(value):
                yield name, number


def _numbers(value: Any) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, (list, tuple)):
        return [number for number in value if isinstance(number, int) and not isinstance(number, bool)]
    return []
