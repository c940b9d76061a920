"""Lightning: automatic and manual optimization, accumulation, bfloat16, and a language model of one's own."""

from __future__ import annotations

import functools
import logging
import warnings

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from rows import Row
from tiny import folder
from torch import nn
from trainer_rows import VOCAB, causal, llama

from probes import LightningAlignmentCallback

__all__ = ["ROWS", "fit"]


class Own(nn.Module):
    """A language model of one's own: no configuration, no labels in its forward."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCAB, 32), nn.GRU(32, 32, batch_first=True)
        self.lm_head = nn.Linear(32, VOCAB)

    def forward(self, ids):
        return self.lm_head(self.mix(self.embed(ids))[0])


class Module(LightningModule):
    """The loss of the module's own model, or one of ours over its logits, ``shift`` rows on."""

    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = model, shift

    def loss(self, batch):
        if self.shift == 1 and not isinstance(self.model, Own):
            return self.model(**batch).loss
        logits = self.model(batch["input_ids"])
        logits = getattr(logits, "logits", logits)
        end = logits.shape[1] - self.shift
        return F.cross_entropy(logits[:, :end].flatten(0, 1).float(), batch["labels"][:, self.shift :].flatten())

    def training_step(self, batch, number):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(Module):
    """The same, and the steps are taken by hand."""

    def __init__(self, model, shift):
        super().__init__(model, shift)
        self.automatic_optimization = False

    def training_step(self, batch, number):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def fit(kind, make, settings, bad, callbacks, *, logger=False, stride=1):
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = kind(make(), 2 if bad else 1)
    data = torch.utils.data.DataLoader([causal(stride * index) for index in range(12)], batch_size=2)
    quiet = {
        "logger": logger,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu", max_steps=2, default_root_dir=folder(), callbacks=callbacks, **quiet, **settings
        )
        trainer.fit(module, data)
    return module


def _row(name, kind=Module, make=llama, *, stride=1, right=frozenset(), **settings):
    train = functools.partial(fit, kind, make, settings, stride=stride)
    return Row("lightning", name, train, frozenset({"LA103"}), LightningAlignmentCallback, right)


ROWS = (
    _row("automatic"),
    _row("automatic, accumulated", stride=3, accumulate_grad_batches=2),
    # it divides by the number of micro-batches, whatever each of them holds
    _row("automatic, accumulated unequally", right=frozenset({"LA302"}), accumulate_grad_batches=2),
    _row("automatic, clipped", gradient_clip_val=0.5),
    _row("automatic, bf16-mixed", precision="bf16-mixed"),
    _row("manual", Manual),
    _row("manual, bf16-mixed", Manual, precision="bf16-mixed"),
    _row("a model of one's own", Module, Own),
    _row("a model of one's own, manual", Manual, Own),
)
