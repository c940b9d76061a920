"""The tokenizer that a script has loaded, to write its tokens with: nothing is loaded for it, and nothing guessed."""

from __future__ import annotations

import gc
import sys
from typing import Any

__all__ = ["tokenizer_of_script"]

#: What a tokenizer must say alike to be another's equal.
TEXT = "The same text, 12 times.\n"


def tokenizer_of_script(vocabulary: int, largest: int) -> Any | None:
    """The one tokenizer of this process that fits; None where there is none, or several that differ.

    Args:
        vocabulary: of the model; a tokenizer has no more tokens.
        largest: id of the batches.
    """
    base = sys.modules.get("transformers.tokenization_utils_base")
    kind = getattr(base, "PreTrainedTokenizerBase", None)
    if kind is None:
        return None
    found = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    fits = [one for one in found if largest < len(one) <= vocabulary]
    told = {(len(one), tuple(one(TEXT, add_special_tokens=False)["input_ids"])) for one in fits}
    return fits[0] if len(told) == 1 else None
