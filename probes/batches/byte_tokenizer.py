"""A tokenizer that needs no download: text by its bytes, special tokens at their true ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..models.higgs import SPECIAL_IDS

__all__ = ["byte_tokenizer"]


def byte_tokenizer(special: Mapping[str, int] = SPECIAL_IDS) -> Any:
    """A tokenizer that needs no download: id b for the byte b, and the special tokens at their true ids.

    It is made once; copy it before adding tokens to it.

    Returns:
        A ``PreTrainedTokenizerFast``.
    """
    return _byte_tokenizer(tuple(special.items()))


@functools.cache
def _byte_tokenizer(special: tuple[tuple[str, int], ...]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    vocab = {chr(256 + hidden.index(b) if b in hidden else b): b for b in range(256)}  # as GPT-2 spells bytes
    # every copy of a vocabulary with holes prints all of them: fill those with tokens that no text has
    names = {index: token for token, index in special}
    vocab |= {names.get(index, f"<unused {index}>"): index for index in range(256, max(names) + 1)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token, _ in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",  # noqa: S106 - a token of text
        eos_token="<|end_of_text|>",  # noqa: S106 - the same
        pad_token="<|end_of_text|>",  # noqa: S106 - the same
        clean_up_tokenization_spaces=False,
    )
