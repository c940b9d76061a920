"""What every row of the frameworks table trains: tiny models, a tokenizer of bytes, conversations of our own."""

from __future__ import annotations

import functools
import tempfile

import torch
from chat_templates import conversation, tokenizer_of

__all__ = ["conversations", "folder", "late", "llama", "pairs", "prompts", "tokenizer"]

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


def folder():
    """A new one."""
    return tempfile.mkdtemp(prefix="frameworks-")


def tokenizer(family="chatml"):
    """A tokenizer with a chat template; ``generation`` has one that marks what is generated."""
    return tokenizer_of(family)


def late(model):
    """The commonest fault, in a model: its logits leave it one row late, and learn the token after the next one."""
    own = model.forward

    @functools.wraps(own)
    def forward(*args, labels=None, **kwargs):
        out = own(*args, **kwargs)
        out.logits = out.logits.roll(1, 1)
        if labels is not None:
            out.loss = model.loss_function(out.logits, labels, model.config.vocab_size)
        return out

    model.forward = forward
    return model


def llama(tok, **settings):
    """A Llama of one layer over the tokenizer's vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ids = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), max_position_embeddings=1024, **ids, **SIZES, **settings))


def conversations(family="chatml", count=6, answers=2):
    """Samples in the form of messages."""
    return [{"messages": conversation(family, answers, n)} for n in range(count)]


def prompts(family="chatml", count=6):
    """Samples of a prompt and its completion, as messages."""
    said = [conversation(family, 1, n) for n in range(count)]
    return [{"prompt": one[:-1], "completion": one[-1:]} for one in said]


def pairs(count=6):
    """Samples of a prompt with a chosen and a rejected answer, in plain text."""
    return [
        {"prompt": f"What is {n}? ", "chosen": f"It is {n}, no more.", "rejected": f"Nobody knows {n}."}
        for n in range(count)
    ]
