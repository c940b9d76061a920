"""The choices of the jury of random losses, as lines of code by name, and what those lines call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AFTER",
    "ALIGNED",
    "CRITERIA",
    "EXTRAS",
    "FAULTS",
    "IGNORED",
    "LOGITS",
    "PADDED",
    "PRELUDE",
    "ROWS",
    "SHIFTED",
    "TWO_AHEAD",
    "Kernel",
    "Own",
    "begun",
    "body",
    "whole",
]

IGNORED = -100
#: Columns of a head that stand for no id, where its logits are cut.
PADDED = 4

#: How hidden rows become logits. ``z`` are the body's rows where a head comes after the pairing, and logits otherwise.
LOGITS = {
    "whole model": "z = whole(model, x)",
    "body and head": "z = head(body(model, x))",
    "chunks": "z = torch.cat([head(part) for part in body(model, x).split(3, 1)], 1)",
    "product": "z = F.linear(body(model, x), head.weight)",
    "transposed product": "z = body(model, x) @ head.weight.T",
    "checkpointed": "z = checkpoint(F.linear, body(model, x), head.weight, use_reentrant=False)",
    "through a layer": "z = head(torch.tanh(body(model, x))[:, :])",
    "rows first": "z = body(model, x)",
    "layer and rows": "z = F.layer_norm(body(model, x), (16,))",
    "kernel": "z = body(model, x)",
    "functional call": "w = dict(model.named_parameters()); "
    "z = whole(lambda **k: torch.func.functional_call(model, w, (), k), x)",
    "batch twice": "z = whole(model, torch.cat([x, x])); "
    "x, y, real = x.repeat(2, 1), y.repeat(2, 1), real.repeat(2, 1)",
    "two forwards": "z = torch.cat([whole(model, x), whole(model, x)]); "
    "x, y, real = x.repeat(2, 1), y.repeat(2, 1), real.repeat(2, 1)",
}
#: Of these the head is called, or multiplied, on the rows that were paired.
ROWS = ("rows first", "layer and rows", "kernel")
#: What is done to logits.
AFTER = {
    "": "",
    "bfloat16": "z = z.bfloat16().float()",
    "float16": "z = z.half().float()",
    "double": "z = z.double()",
    "softcap": "z = 30 * torch.tanh(z / 30)",
    "temperature": "z = z / 0.7",
    "transposed": "z = z.transpose(-2, -1).contiguous().transpose(-2, -1)",
    "padded columns": f"z = z[..., :-{PADDED}]",
    "id ruled out": "z = z.index_fill(-1, torch.tensor([0]), -torch.inf)",
}
#: How rows meet labels that name the token at their place, shifted by ``{d}`` (1 is right).
ALIGNED = {
    "slices": "z, y = z[:, : z.shape[1] - {d}], y[:, {d}:]",
    "roll": "y = y.roll(-{d}, 1); y[:, y.shape[1] - {d} :] = -100",
    "pad": "y = F.pad(y, (0, {d}), value=-100)[:, {d}:]",
    "loop": "n = z.shape[1] - {d}; z, y = torch.stack([z[:, t] for t in range(n)], 1), "
    "torch.stack([y[:, t + {d}] for t in range(n)], 1)",
    "index_select": "n = torch.arange(z.shape[1] - {d}); z, y = z.index_select(1, n), y.index_select(1, n + {d})",
    "flatten": "y = y.clone(); y[:, :{d}] = -100; "
    "z, y = z.flatten(0, 1)[: z.shape[0] * z.shape[1] - {d}], y.flatten()[{d}:]",
    "labelled": "z, y = z[:, : z.shape[1] - {d}], y[:, {d}:]; k = y != -100; z, y = z[k], y[k]",
    "time-major": "z, y = z.transpose(0, 1), y.T; z, y = z[: len(z) - {d}], y[{d}:]",
    "shortest first": "n = (y != -100).sum(1).argsort(); z, y = z[n, : z.shape[1] - {d}], y[n, {d}:]",
    "ends first": "z = z.flip(1)[:, {d}:].flip(1); y = y.flip(1)[:, : y.shape[1] - {d}].flip(1)",
}
#: The same for labels that name the token after their place.
SHIFTED = {
    "direct": "",
    "flattened": "z, y = z.flatten(0, 1), y.flatten()",
    "labelled": "k = y != -100; z, y = z[k], y[k]",
    "backwards": "z, y = z.flip(1), y.flip(1)",
    "time-major": "z, y = z.transpose(0, 1), y.T",
    "shortest first": "n = (y != -100).sum(1).argsort(); z, y = z[n], y[n]",
}
#: Losses of (N, V) logits and (N,) labels.
CRITERIA = {
    "cross_entropy": "loss = F.cross_entropy(z, y)",
    "sum over count": "loss = F.cross_entropy(z, y, reduction='sum') / (y != -100).sum().clamp(min=1)",
    "sum": "loss = F.cross_entropy(z, y, reduction='sum')",
    "nll": "loss = F.nll_loss(F.log_softmax(z, -1), y)",
    "log-sum-exp": "k = y != -100; loss = (z[k].logsumexp(-1) - z[k].gather(-1, y[k, None])[:, 0]).mean()",
    "one-hot": "k = y != -100; loss = -(F.one_hot(y[k], z.shape[-1]) * z[k].log_softmax(-1)).sum(-1).mean()",
    "categorical": "k = y != -100; loss = -torch.distributions.Categorical(logits=z[k]).log_prob(y[k]).mean()",
    "smoothing": "loss = F.cross_entropy(z, y, label_smoothing=0.1)",
    "focal": "l = F.cross_entropy(z, y, reduction='none'); "
    "loss = (l * (1 - (-l).exp()) ** 2).sum() / (y != -100).sum()",
    "poly": "l = F.cross_entropy(z, y, reduction='none'); "
    "loss = ((l + 1 - (-l).exp()) * (y != -100)).sum() / (y != -100).sum()",
    "token weights": "l = F.cross_entropy(z, y, reduction='none'); loss = (l * (1 + torch.arange(len(l)) % 3)).mean()",
    "class weights": "loss = F.cross_entropy(z, y, weight=1 + (torch.arange(z.shape[-1]) % 2).to(z))",
    "custom function": "loss = Own.apply(z, y)",
    "bce": "k = y != -100; loss = F.binary_cross_entropy_with_logits(z[k], F.one_hot(y[k], z.shape[-1]).to(z))",
    "gather": "k = y != -100; loss = -z[k].softmax(-1).gather(-1, y[k, None]).log().mean()",
    "sampled": "k = y != -100; n = torch.randperm(z.shape[-1])[:6]; "
    "s = z[k][:, n].masked_fill(n == y[k, None], -torch.inf); "
    "loss = (torch.cat([z[k].gather(-1, y[k, None]), s], -1).logsumexp(-1) - z[k].gather(-1, y[k, None])[:, 0]).mean()",
    "preference": "l = F.cross_entropy(z, y, reduction='none')[y != -100]; n = (len(l) + 1) // 2; "
    "loss = -F.logsigmoid(0.1 * (l[n:].sum() - l[:n].sum()))",
    "policy": "k = y != -100; l = z[k].log_softmax(-1).gather(-1, y[k, None])[:, 0]; "
    "loss = -((l - l.detach()).exp() * (1 + torch.arange(len(l)) % 3)).mean()",
    "vmap": "k = y != -100; "
    "loss = torch.vmap(lambda a, b: a.logsumexp(0) - a.gather(0, b[None])[0])(z[k], y[k]).mean()",
    "clamped": "loss = F.cross_entropy(z, y, reduction='none').clamp(max=50).sum() / (y != -100).sum()",
    "hardest": "l = F.cross_entropy(z, y, reduction='none')[y != -100]; "
    "loss = l.topk((2 * len(l) + 2) // 3).values.mean()",
    "soft teacher": "k = y != -100; t = torch.linspace(-2, 2, z.shape[-1]).to(z).softmax(-1); "
    "loss = 0.5 * F.cross_entropy(z, y) + 0.5 * (t * (t.log() - z[k].log_softmax(-1))).sum(-1).mean()",
}
#: What is added to a loss.
EXTRAS = {
    "": "",
    "z-loss": "loss = loss + 1e-4 * z.logsumexp(-1).pow(2).mean()",
    "entropy": "loss = loss + 1e-3 * (z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()",
    "l2": "loss = loss + 1e-5 * z.pow(2).mean()",
    "z-loss and entropy": "loss = loss + 1e-4 * z.logsumexp(-1).pow(2).mean()"
    " + 1e-3 * (z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()",
    "weights": "loss = loss + 1e-3 * sum(one.pow(2).sum() for one in model.parameters())",
    "scaled": "loss = loss * 64",
    "nothing": "loss = loss + 0 * z.sum()",
    "two ahead": "",
}
#: A further call of the head, on rows that went through one more layer, for the token after the next.
TWO_AHEAD = (
    "h = body(model, x); z = head(h); "
    "w, v = head(torch.tanh(h)).flatten(0, 1), F.pad(y, (0, 2), value=-100)[:, 2:].masked_fill(~real, -100).flatten()"
)
#: Faults of how rows meet labels: lines before the pairing, or another shift.
FAULTS = {
    "copy": 0,
    "double shift": 2,
    "three ahead": 3,
    "prompt trained": "y = torch.where(real, x, y)",
    "sample dropped": "z, y, x = z[1:], y[1:], x[1:]",
    "mask of the row": "y = torch.where(y.roll(-1, 1) == -100, torch.full_like(y, -100), x)",
    "one piece": "",
    "detached": "",
    "length": "",
    "half trained": "y = y.clone(); y[:, 1::2] = -100",
    "mean of means": "",
    "other book": "",
}
PRELUDE = """import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from random_choices import Kernel, Own, begun, body, whole
"""


class Own(torch.autograd.Function):
    """A cross-entropy whose backward is its own, as fused kernels have it."""

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor) -> Tensor:
        kept = labels != IGNORED
        context.save_for_backward(logits, labels)
        chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
        return -(chosen * kept).sum() / kept.sum().clamp(min=1)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels = context.saved_tensors
        kept = labels != IGNORED
        rest = logits.softmax(-1)
        rest[torch.arange(len(labels)), labels.clamp(min=0)] -= 1
        return grad * rest * kept[:, None] / kept.sum().clamp(min=1), None


class Kernel(torch.autograd.Function):
    """A cross-entropy of hidden rows and a head's weight, in which no logits outlive the forward."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        kept = labels != IGNORED
        prob = (hidden @ weight.T).softmax(-1)
        chosen = prob.gather(-1, labels.clamp(min=0)[:, None])[:, 0].log()
        prob[torch.arange(len(labels)), labels.clamp(min=0)] -= 1
        prob = prob * kept[:, None] / kept.sum().clamp(min=1)
        context.save_for_backward(prob @ weight, prob.T @ hidden)
        return -(chosen * kept).sum() / kept.sum().clamp(min=1)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = context.saved_tensors
        return grad * hidden, grad * weight, None


def body(model: Any, ids: Tensor) -> Tensor:
    """(B, T, H): what the head of a model of ours reads."""
    return model.body(input_ids=ids)[0]


def whole(model: Any, ids: Tensor, **others: Tensor) -> Tensor:
    """(B, T, V): the logits of a model of ours."""
    out = model(input_ids=ids, **others)
    return out if isinstance(out, Tensor) else out.logits


def begun(labels: Tensor) -> Tensor:
    """(B, T): what a decoder reads, whose targets these are."""
    ids = labels.masked_fill(labels == IGNORED, 0).roll(1, 1)
    ids[:, 0] = 0
    return ids
