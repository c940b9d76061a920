"""Training loops in this process, watched as `loss-align run` watches a script."""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F

from probes.live.launch import Ended
from probes.processes.session import Session, Settings
from probes.records.choice import Choice

__all__ = ["VOCAB", "batches", "llama", "loop", "mean", "same_state", "watched"]

VOCAB = 256
EVERYTHING = Choice()


def watched(train, *, steps=2, heads=(), stop=False, keep=EVERYTHING, ended=0, **more):
    """Run ``train()`` watched; the session, whose ``report`` is what was told, and the exit code."""
    with Session(Settings(steps, heads, stop, {}, keep, list, **more)) as session:
        session.begin()
        try:
            train()
        finally:
            code = session.end(Ended(ended))
    return session.report, code


@functools.cache
def _config():
    from transformers import LlamaConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return LlamaConfig(vocab_size=VOCAB, attention_dropout=0.1, **sizes)


def llama():
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(copy.deepcopy(_config())).train()


def batches(count, size=2, *, seed=0, equal=False):
    """Right-padded prompts and answers; the answers, of unequal lengths, are labelled."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        lengths = [14] * size if equal else torch.randint(8, 20, (size,), generator=draw).tolist()
        ids = torch.stack([torch.randperm(VOCAB - 3, generator=draw)[:20] + 3 for _ in lengths])
        mask = (torch.arange(20) < torch.tensor(lengths)[:, None]).long()
        labels = ids.masked_fill((mask == 0) | (torch.arange(20) < 4), -100)
        ids = ids.masked_fill(mask == 0, 0)
        out.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return out


def mean(logits, labels, shift=1):
    """Mean cross-entropy of each row with the label ``shift`` rows on."""
    end = logits.shape[1] - shift
    return F.cross_entropy(logits[:, :end].flatten(0, 1).float(), labels[:, shift:].flatten())


def loop(model, loss, data, *, accumulate=1, optimizer=None):
    """A plain training loop: ``loss(model, batch)`` per micro-batch, a step per ``accumulate`` of them."""
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for number, batch in enumerate(data, 1):
        loss(model, dict(batch)).backward()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def same_state(one, other):
    """Whether two models hold the same bits."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
