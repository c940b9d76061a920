"""Training step: a few real optimizer steps with the loss, judged by our own loss before and after.

Afterwards weights, gradients, random state and modes are as before. On a loaded checkpoint only the
adapters are trained and kept a copy of, else only the heads, so that a large model fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import out_of_memory
from ..host.preserve import copy_of, preserved
from ..host.sharded import local
from ..models import Adapter, View
from ..witness.subject import Subject

__all__ = [
    "MasterAdam",
    "NotTrainedError",
    "Steps",
    "borrowed_weights",
    "take_steps",
    "taken_or_why",
    "trainable_parameters",
]

#: The fewest by which all of a LoRA has moved: at the first its B is zero, and hands A no gradient.
STEPS = 2
LEARNING_RATE = 1e-3
#: How much of its moments Adam keeps.
BETAS = (0.9, 0.999)


class NotTrainedError(RuntimeError):
    """No parameter that may be trained takes part in the loss."""


@dataclass(frozen=True)
class Steps:
    """The loss of every step, our losses per stream before and after, and how many parameters moved.

    ``alone`` is what those losses come to after steps on the stream's own part of the loss, where it was asked for.
    """

    losses: tuple[float, ...]
    before: dict[str, float]
    after: dict[str, float]
    parameters: int
    restored: bool
    alone: Mapping[str, float] = field(default_factory=dict)

    @property
    def risen(self) -> list[str]:
        """The streams that did not fall."""
        return [kind for kind in self.before if not self.after[kind] < self.before[kind]]


def trainable_parameters(model: nn.Module, adapter: Adapter, view: View, *, everything: bool) -> list[nn.Parameter]:
    """All parameters of a small model; of a loaded one its adapters, else its heads."""
    named = list(model.named_parameters())
    if everything:
        return [param for _, param in named if param.requires_grad]
    adapters = [param for name, param in named if "lora_" in name and param.requires_grad]
    if adapters:
        return adapters
    heads = [param for head in adapter.heads(model, view) for param in head.module.parameters()]
    return list(dict.fromkeys(heads))


@contextmanager
def borrowed_weights(
    model: nn.Module, adapter: Adapter, chosen: Sequence[nn.Parameter], withhold: tuple[str, ...] = ()
) -> Iterator[None]:
    """Train ``chosen`` inside, and nothing else; put everything back afterwards.

    ``withhold`` names label keywords to keep from the innermost forward.
    """
    kept = [param.detach().clone() for param in chosen]
    hooked = adapter.inner(model).register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {k: v for k, v in kwargs.items() if k not in withhold}),
        with_kwargs=True,
    )
    try:
        with hooked, preserved(model), torch.enable_grad():
            for param in model.parameters():
                param.requires_grad_(requires_grad=False)
            for param in chosen:
                param.requires_grad_(requires_grad=True)
            yield
    finally:
        with torch.no_grad():
            for param, value in zip(chosen, kept, strict=True):
                param.copy_(value)


@contextmanager
def _without_gradient(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let these modules hand back what carries no gradient."""
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(lambda _m, _a, out: out.detach()))
        yield


class MasterAdam:
    """Adam on float32 copies: in half precision its second moments underflow and the step is not finite.

    The update is that of ``torch.optim.Adam`` with its defaults, which would import torch's compiler for it.
    """

    def __init__(self, chosen: Sequence[nn.Parameter], lr: float) -> None:
        self.chosen, self.lr, self.steps = list(chosen), lr, 0
        self.masters = [param.detach().float() for param in chosen]  # float32 parameters themselves
        self.moments = [(torch.zeros_like(master), torch.zeros_like(master)) for master in self.masters]

    def step(self, loss: Tensor) -> float:
        """One step against ``loss``; returns its value.

        Raises:
            NotTrainedError: the loss depends on none of the parameters.
        """
        if not loss.requires_grad:
            count = len(self.chosen)
            which = f"none of the {count} trainable parameters takes part in the loss" if count else "all are frozen"
            raise NotTrainedError(f"no parameter of the model is trained by this batch: {which}")
        for param in self.chosen:
            param.grad = None
        loss.backward()  # torch.autograd.grad knows nothing of FSDP2, which makes the gradients of its shards here
        gradients = [param.grad for param in self.chosen]
        self.steps += 1
        with torch.no_grad():
            for param, master, moments, gradient in zip(
                self.chosen, self.masters, self.moments, gradients, strict=True
            ):
                if gradient is not None:
                    self._update(master, moments, gradient.float())
                    if param.dtype != master.dtype:
                        param.copy_(master)
        return float(loss.detach())

    def _update(self, master: Tensor, moments: tuple[Tensor, Tensor], gradient: Tensor) -> None:
        (first, second), (slow, slower) = moments, BETAS
        first.lerp_(gradient, 1 - slow)
        second.mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
        root = (1 - slower**self.steps) ** 0.5
        master.addcdiv_(first, second.sqrt().add_(1e-8 * root), value=-self.lr * root / (1 - slow**self.steps))


def taken_or_why(subject: Subject, take: Callable[[], Steps | str]) -> Steps | str | Exception:
    """The steps that ``take`` takes, or why there are none, or what the user's loss raised meanwhile."""
    if subject.trains_nothing:
        return f"the loss does not train: {subject.trains_nothing}"
    try:
        return take()
    except Exception as error:  # it may raise anything; the report goes on without it
        if out_of_memory(error):
            raise
        return error


def take_steps(
    subject: Subject,
    before: dict[str, float],
    judge: Callable[[], dict[str, float]],
    *,
    everything: bool,
    only: str = "",
) -> Steps:
    """Train for a few steps and undo it.

    ``judge`` gives our own loss per stream at the model's present weights, which ``before`` is at those that it has;
    ``everything`` trains all parameters rather than adapters or heads; ``only`` names the one modality whose logits
    hand a gradient on.
    """
    model, adapter, view = subject.model, subject.adapter, subject.seen.view
    muted = [
        head.module
        for head in adapter.heads(model, view)
        if only and not any(view.streams[number].is_audio == (only == "audio") for number in head.streams)
    ]
    chosen = trainable_parameters(model, adapter, view, everything=everything)
    first = [local(param.detach()).sum(dtype=torch.float64) for param in chosen]
    with borrowed_weights(model, adapter, chosen, subject.withhold):
        optimizer = MasterAdam(chosen, LEARNING_RATE)
        with _without_gradient(muted):
            losses = [optimizer.step(subject.loss_fn(model, copy_of(subject.batch))) for _ in range(STEPS)]
        after = judge()
    now = [local(param.detach()).sum(dtype=torch.float64) for param in chosen]
    restored = all(bool(one == other) for one, other in zip(first, now, strict=True))
    return Steps(tuple(losses), before, after, sum(param.numel() for param in chosen), restored)
