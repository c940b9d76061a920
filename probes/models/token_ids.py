"""Which ids mean something special to a model: read off its configuration, at any depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from ..host.walk import config_of

__all__ = [
    "bounds",
    "end_ids",
    "pad_ids",
    "placeholder_ids",
    "special_ids",
    "start_id",
    "text_config",
    "vocabularies",
    "writes_others",
]

#: Model types that write the tokens of images and audio themselves: their placeholders are targets.
GENERATORS = ("chameleon", "emu3", "janus")

#: Configuration entries that hold token ids: ``eos_token_id``, ``image_token_index``, ``bos_token_ids`` ...
TOKEN = re.compile(r".*token_(id|ids|index|idx)$|.*_(bos|eos|pad|start|end)_id$")
#: Of these, the tokens that stand for an input of another modality, one per frame or patch.
PLACEHOLDER = re.compile(
    r"(image|video|audio|speech|sound|vision|media|patch|pixel)(_(patch|pad|placeholder|content|latent))?_token_(id|index|idx)$"
)


def special_ids(model: Any) -> set[int]:
    """Every token id that the model's configuration names: padding, begin, end, placeholders, languages."""
    found = set(_numbers_called(model, _is_token))
    return found | set(end_ids(model))


def vocabularies(model: nn.Module) -> set[int]:
    """How many ids each embedding of a model knows, and the sizes of vocabularies that its configuration names."""
    named = set(_numbers_called(model, lambda name: name.endswith("vocab_size")))
    return named | {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}


def placeholder_ids(model: Any) -> tuple[int, ...]:
    """Ids that stand for images, audio or video and are never a target."""
    return tuple(sorted(set(_numbers_called(model, _is_placeholder))))


def end_ids(model: Any) -> tuple[int, ...]:
    """The ids that end a text: ``eos_token_id`` of the text configuration, and of the generation configuration."""
    return _ends(model, _configs(model))


def pad_ids(model: Any) -> tuple[int, ...]:
    """The ids of padding: ``pad_token_id`` of the text configuration, or of the whole."""
    return _named("pad_token_id", _configs(model))


def bounds(model: Any) -> dict[str, tuple[int, ...]]:
    """What ends, pads and begins a text, by the names that ``text_stream`` has for them.

    It begins with ``bos_token_id``, in a model with a decoder of its own with what that starts with.
    """
    configs, started = _configs(model), start_id(model)
    begins = _named("bos_token_id", configs) if started is None else (started,)
    return {"end_ids": _ends(model, configs), "pad_ids": _named("pad_token_id", configs), "begin_ids": begins}


def start_id(model: Any) -> int | None:
    """What an encoder-decoder model's decoder starts with; None without one, or where nothing says so."""
    config = config_of(model)
    if not getattr(config, "is_encoder_decoder", False):
        return None
    # of the whole first: the part of a decoder that is made for the asking may have the default of its class
    return next(iter(_numbers(getattr(config, "decoder_start_token_id", None))), None)


def writes_others(model: Any) -> bool:
    """Whether a model writes the tokens of images or audio itself."""
    return any(kind in str(getattr(config_of(model), "model_type", "")) for kind in GENERATORS)


def _configs(model: Any) -> tuple[Any, Any]:
    """The text configuration first: a part that is made for the asking, which takes longer than all that is asked."""
    return text_config(model), config_of(model)


def _named(name: str, configs: Iterable[Any]) -> tuple[int, ...]:
    """The ids that the first of some configurations holds by a name."""
    return next((tuple(found) for one in configs if (found := _numbers(getattr(one, name, None)))), ())


def _ends(model: Any, configs: Iterable[Any]) -> tuple[int, ...]:
    generation = _numbers(getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    return tuple(dict.fromkeys((*_named("eos_token_id", configs), *generation)))


def text_config(model: Any) -> Any:
    """The part of a configuration that describes the text decoder; None for a model without one."""
    config = config_of(model)
    if not hasattr(config, "get_text_config"):
        return config
    try:
        return config.get_text_config(decoder=True)
    except ValueError:  # several candidates: the model is none of the usual kinds
        return config


@lru_cache(maxsize=4096)
def _is_token(name: str) -> bool:
    return TOKEN.match(name) is not None or _is_placeholder(name)


@lru_cache(maxsize=4096)
def _is_placeholder(name: str) -> bool:
    return PLACEHOLDER.match(name) is not None


def _numbers_called(model: Any, wanted: Callable[[str], bool]) -> Iterator[int]:
    """The numbers that a model's configurations hold under names that are ``wanted``."""
    for config in (config_of(model), getattr(model, "generation_config", None)):
        yield from _numbers_in(config, wanted) if hasattr(config, "to_dict") else ()


def _numbers_in(held: Any, wanted: Callable[[str], bool]) -> Iterator[int]:
    """Those of a configuration, or of one inside it: its ``to_dict`` would copy all of it."""
    for name, value in (held if isinstance(held, dict) else vars(held)).items():
        if isinstance(value, (int, list, tuple)):
            yield from _numbers(value) if wanted(str(name)) else ()
        elif isinstance(value, dict) or hasattr(value, "to_dict"):
            yield from _numbers_in(value, wanted)


def _numbers(value: Any) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, (list, tuple)):
        return [number for number in value if isinstance(number, int) and not isinstance(number, bool)]
    return []
