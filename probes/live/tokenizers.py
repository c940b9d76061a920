"""The tokenizer that a script has loaded, to write its tokens with: nothing is loaded for it, and nothing guessed."""

from __future__ import annotations

import gc
import sys
from typing import Any

__all__ = ["tokenizer_of_script", "tokenizer_of_trainer"]

#: What a tokenizer must say alike to be another's equal.
TEXT = "The same text, 12 times.\n"


def tokenizer_of_script(vocabulary: int, largest: int) -> Any | None:
    """The one tokenizer of this process that fits, that of its trainers first; None where none is, or several differ.

    Args:
        vocabulary: of the model; a tokenizer has no more tokens.
        largest: id of the batches.
    """
    kind = _loaded("transformers.tokenization_utils_base", "PreTrainedTokenizerBase")
    if kind is None:
        return None
    everything = gc.get_objects()
    trainer = _loaded("transformers.trainer", "Trainer")
    trainers = [one for one in everything if trainer is not None and issubclass(type(one), trainer)]
    for found in (map(tokenizer_of_trainer, trainers), everything):
        fits = [one for one in found if issubclass(type(one), kind) and largest < len(one) <= vocabulary]
        told = {(len(one), tuple(one(TEXT, add_special_tokens=False)["input_ids"])) for one in fits}
        if len(told) == 1:
            return fits[0]
    return None


def tokenizer_of_trainer(trainer: Any) -> Any:
    """The ``processing_class`` of a Trainer, as older versions call it too; of a processor the tokenizer in it."""
    own = trainer.processing_class if hasattr(trainer, "processing_class") else getattr(trainer, "tokenizer", None)
    return getattr(own, "tokenizer", own)


def _loaded(module: str, name: str) -> type | None:
    """A class of a module that the script has imported; None where it has not."""
    return getattr(sys.modules.get(module), name, None)
