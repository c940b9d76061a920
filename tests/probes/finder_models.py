"""Small models whose streams are to be found, and what else may stand beside a language model."""

import torch
import torch.nn.functional as F
import transformers as tf
from speech_zoo import Causal, ce, ids
from torch import nn

__all__ = ["BESIDE", "SMALL", "TEXT", "Beside", "V", "beside", "llama", "next_token", "own"]

V, SMALL = (
    64,
    {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
)
TEXT = {"input_ids": ids(0, V, 2, 12), "labels": ids(0, V, 2, 12)}


def own(model, batch):
    return model(**batch).loss


def llama(**more):
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, **more))


class Beside(nn.Module):
    """A language model with other heads beside its own."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(V, 32), Causal(), nn.Linear(32, V)
        self.classes, self.value = nn.Linear(32, 5), nn.Linear(32, 1)

    def forward(self, x):
        hidden = self.body(self.embed(x))
        return self.head(hidden), self.classes(hidden[:, -1]), self.value(hidden), hidden


BESIDE = {"x": TEXT["input_ids"], "y": torch.tensor([1, 4])}


def next_token(model, batch):
    return ce(model(batch["x"])[0][:, :-1], batch["x"][:, 1:])


def beside(model, batch):
    logits, classes, value, hidden = model(batch["x"])
    pooled = F.normalize(hidden.mean(1), dim=-1)
    language = ce(logits[:, :-1], batch["x"][:, 1:])
    contrast = F.cross_entropy(pooled @ pooled.T, torch.arange(2))
    return language + F.cross_entropy(classes, batch["y"]) + value.square().mean() + contrast
