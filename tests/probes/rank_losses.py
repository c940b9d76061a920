"""Losses of a text model under torchrun, some of which do otherwise on rank 1."""

import os
import time

import torch.distributed as dist
import torch.nn.functional as F

RANK = int(os.environ.get("RANK", "0"))
if RANK and os.environ.get("PLANTED") == "no file on one machine":
    raise FileNotFoundError("train/extra.json")


def counted(model, batch, shift=1):
    """Right: divides by the targets of all ranks, and multiplies by what DDP divides by."""
    labels = batch["labels"][:, shift:].flatten()
    logits = model(**batch).logits
    logits = logits[:, : logits.shape[1] - shift].flatten(0, 1)
    count = (labels != -100).sum()
    dist.all_reduce(count)
    return F.cross_entropy(logits, labels, reduction="sum") * dist.get_world_size() / count


def copies(model, batch):
    return counted(model, batch, shift=1 - RANK)


def sums(model, batch):
    return counted(model, batch) * ((batch["labels"] != -100).sum() if RANK else 1)


def dies(model, batch):
    if RANK:
        os._exit(7)
    return counted(model, batch)


def hangs(model, batch):
    if RANK:
        time.sleep(600)
    return counted(model, batch)


def first_dies(model, batch):
    if not RANK:
        os._exit(7)
    return counted(model, batch)


def first_hangs(model, batch):
    if not RANK:
        time.sleep(600)
    return model(**batch).loss


def one_sided(model, batch):
    loss = model(**batch).loss
    if not RANK:
        dist.all_reduce(loss.detach().clone())
    return loss


def raises(model, batch):
    """Before a collective in which the other rank then waits."""
    if RANK:
        raise ValueError("three sheep")
    return counted(model, batch)
