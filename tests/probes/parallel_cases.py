"""Models and losses that several processes share, and what a check must say of them in each; run by torchrun.

``torchrun --nproc-per-node 2 tests/probes/parallel_cases.py NAME...`` prints one line of JSON per case and process.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import tiny_model
from torch import Tensor, distributed

from probes import check_loss

#: ``cuda`` runs the same on nccl, a process to a device.
DEVICE = os.environ.get("DEVICE", "cpu")

# -- tensor parallel: every layer, or the head alone, is split over processes --------------------------------


def split(head: str) -> torch.nn.Module:
    """A Llama whose feed-forward layers and head are split; ``head`` says how its logits come."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    heads = {
        "whole": ColwiseParallel(output_layouts=Replicate()),
        "split": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
        "own ids": ColwiseParallel(output_layouts=Shard(-1)),
    }
    model = tiny_model("LlamaForCausalLM")
    plan: dict[str, Any] = {"lm_head": heads[head]}
    for number in range(len(model.model.layers)):
        layer = f"model.layers.{number}.mlp"
        plan |= {f"{layer}.gate_proj": ColwiseParallel(), f"{layer}.up_proj": ColwiseParallel()}
        plan[f"{layer}.down_proj"] = RowwiseParallel()
    mesh = init_device_mesh(DEVICE, (distributed.get_world_size(),))
    return parallelize_module(model.to(DEVICE), mesh, plan)


def pairs(model, batch, shift: int) -> tuple[Tensor, Tensor]:
    """Logits (R, V) and labels (R,) that are ``shift`` rows further on."""
    logits = model(input_ids=batch["input_ids"]).logits
    return logits[:, : logits.shape[1] - shift].flatten(0, 1), batch["labels"][:, shift:].flatten()


def plain(model, batch, shift):
    return F.cross_entropy(*pairs(model, batch, shift))


def gathered(model, batch, shift):
    logits, labels = pairs(model, batch, shift)
    return F.cross_entropy(logits.full_tensor(), labels)


def parallel(model, batch, shift):
    from torch.distributed.tensor.parallel import loss_parallel

    with loss_parallel():
        return plain(model, batch, shift)


def over_own_ids(model, batch, shift):
    """As Megatron's cross-entropy: every process has the scores of its own ids, and adds up with the others."""
    logits, labels = pairs(model, batch, shift)
    width = logits.shape[-1]
    here = labels - distributed.get_rank() * width
    own = (here >= 0) & (here < width)
    total = Summed.apply(logits.exp().sum(-1))
    score = Summed.apply(logits.gather(1, here.clamp(0, width - 1)[:, None])[:, 0] * own)
    return ((total.log() - score) * (labels >= 0)).sum() / (labels >= 0).sum()


class Summed(torch.autograd.Function):
    """A sum over processes, each of which has the whole gradient of it."""

    @staticmethod
    def forward(_, value):
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(_, grad):
        return grad


# -- context parallel: every process has a part of every sample ----------------------------------------------


def in_one_piece(length: int) -> Tensor:
    """The columns of this process, one behind the other."""
    return torch.arange(length).chunk(distributed.get_world_size())[distributed.get_rank()]


def unevenly(length: int) -> Tensor:
    """The first process has five columns more than the others."""
    of, rank = distributed.get_world_size(), distributed.get_rank()
    first = (length - 5) // of + 5
    return torch.arange(first) if rank == 0 else torch.arange(first, length).chunk(of - 1)[rank - 1]


def zigzag(length: int) -> Tensor:
    """A piece of the beginning and one of the end, so that each process attends to as many."""
    of, rank = distributed.get_world_size(), distributed.get_rank()
    pieces = torch.arange(length).chunk(2 * of)
    return torch.cat([pieces[rank], pieces[2 * of - 1 - rank]])


def striped(length: int) -> Tensor:
    """Every so many columns one."""
    return torch.arange(length)[distributed.get_rank() :: distributed.get_world_size()]


def moved(labels: Tensor) -> Tensor:
    """Every label one to the left, and nothing at the end."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)


Part = Callable[[Tensor], Tensor]
SHIFTS: dict[str, Callable[[Tensor, Part], Tensor]] = {
    "shifted, then parted": lambda labels, part: part(moved(labels)),
    "parted, then shifted": lambda labels, part: moved(part(labels)),  # the last row of a part has no target
    "parted, then rolled": lambda labels, part: part(labels).roll(-1, 1),  # it has the part's own first
}


def in_parts(model, batch, shift, columns=in_one_piece):
    ids = batch["input_ids"]
    own = columns(ids.shape[1]).to(ids.device)
    labels = SHIFTS[shift](batch["labels"], lambda values: values[:, own])
    logits = model(input_ids=ids[:, own], position_ids=own[None]).logits
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return Summed.apply(total) / (batch["labels"][:, 1:] >= 0).sum()


# -- cases -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model, a loss, and the codes that every process must name; those of one that ``shares`` its samples by rank.

    Of such a one the columns from ``first`` on are labelled.
    """

    make: Callable[[], torch.nn.Module]
    loss: Callable[..., Tensor]
    codes: Callable[[int, int], str]
    shares: bool = False
    first: int = 3


def context(shift, codes=lambda _rank, _of: "", columns=in_one_piece, first=3):
    loss = partial(in_parts, shift=shift, columns=columns)
    return Case(lambda: tiny_model("LlamaForCausalLM").to(DEVICE), loss, codes, shares=True, first=first)


def tensor(head, loss, shift, code):
    return Case(partial(split, head), partial(loss, shift=shift), lambda _rank, _of: code)


TENSOR = {
    "whole logits": ("whole", plain),
    "split logits, gathered": ("split", gathered),
    "split logits, loss_parallel": ("split", parallel),
    "own ids alone": ("own ids", over_own_ids),
}
CASES = {
    **{name: tensor(head, loss, 1, "") for name, (head, loss) in TENSOR.items()},
    **{f"{name}, copy": tensor(head, loss, 0, "LA102") for name, (head, loss) in TENSOR.items()},
    "shifted, then parted": context("shifted, then parted"),
    "parted, then shifted": context("parted, then shifted", lambda rank, of: "LA201" if rank < of - 1 else ""),
    "parted, then rolled": context("parted, then rolled", lambda rank, _of: "LA105" if rank else "LA201"),
    "uneven parts": context("shifted, then parted", columns=unevenly),
    "zigzag": context("shifted, then parted", columns=zigzag),
    "zigzag, then rolled": context("parted, then rolled", lambda _rank, _of: "LA105", columns=zigzag, first=0),
    "stripes": context("shifted, then parted", columns=striped),
    "stripes, then shifted": context(
        "parted, then shifted", lambda _rank, of: "LA103" if of == 2 else "LA104", columns=striped, first=0
    ),
    "targets in the last part": context("shifted, then parted", first=20),
}


def batch_of(case: Case) -> dict[str, Tensor]:
    """The same in every process, with targets in every part."""
    batch = {key: value.to(DEVICE) for key, value in text_batch().items()}
    if case.shares:
        at = torch.arange(batch["input_ids"].shape[1], device=DEVICE)
        batch["labels"] = batch["input_ids"].masked_fill(at < case.first, -100)
    return batch


def run_case(case: Case) -> dict[str, Any]:
    """What this process is told."""
    report = check_loss(case.make(), batch_of(case), case.loss, ignore=["LA805"])
    return {
        "errors": [finding.code for finding in report.findings if finding.is_error],
        "causality": report.check("causality").status,
        "others": sum("are for other processes to judge" in note for note in report.notes),
    }


def expected(name: str, rank: int, of: int) -> dict[str, Any]:
    """What the process must be told: what is said of causality where each has a part is a blind spot, accepted."""
    case = CASES[name]
    code = case.codes(rank, of)
    causality = "skip" if case.shares else "pass"
    return {"errors": [code] if code else [], "causality": causality, "others": int(case.shares)}


def main():
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if DEVICE == "cuda" else "gloo", timeout=timedelta(seconds=60))
    for name in sys.argv[1:]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            told = {"name": name, "rank": distributed.get_rank(), **run_case(CASES[name])}
        sys.stdout.write(json.dumps(told) + "\n")  # one write: the lines of two processes must not mix
        sys.stdout.flush()
    distributed.barrier()  # and no way out of Python's own: gloo's threads outlive what they belong to


if __name__ == "__main__":
    main()
