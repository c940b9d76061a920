"""What is trained by a model's gradient: parameters of its own, and those that its logits are made of beside them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ..host.walk import nodes_of

__all__ = ["Trained"]


class Trained:
    """Knows which optimizers train a model.

    Args:
        root: as the script calls it.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._beyond: dict[int, weakref.ref[nn.Parameter]] = {}

    def note_made(self, made: Tensor) -> None:
        """Logits, or what they are made of: a projector in front of the model need not be part of it."""
        known = self.parameters
        for leaf in _leaves([made]):
            if isinstance(leaf, nn.Parameter) and id(leaf) not in known:
                self._beyond[id(leaf)] = weakref.ref(leaf)

    def by(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer holds any of the parameters."""
        own = self.parameters
        return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])

    def ungraded(self, optimizer: Optimizer) -> dict[str, bool]:
        """Per parameter of the model that an optimizer holds, by name: whether its gradient is None."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        own = self._root.named_parameters()
        return {name: one.grad is None for name, one in own if id(one) in held and one.requires_grad}

    def alone_below(self, roots: Sequence[Tensor]) -> bool:
        """Whether what a backward begins at depends on no parameter of anything else; on none at all, if constant."""
        own = self.parameters
        return all(id(leaf) in own for leaf in _leaves(roots) if isinstance(leaf, nn.Parameter))

    def is_fresh(self) -> bool:
        """Whether no gradient is there that a backward would add to: they were zeroed, or taken away."""
        grads = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        return not any(grad.is_sparse or hasattr(grad, "full_tensor") or bool((grad != 0).any()) for grad in grads)

    @property
    def parameters(self) -> set[int]:
        """Their identities."""
        return {id(parameter) for parameter in self._parameters()}

    def _parameters(self) -> list[nn.Parameter]:
        beyond = [parameter for reference in self._beyond.values() if (parameter := reference()) is not None]
        return [*self._root.parameters(), *beyond]


def _leaves(made: Sequence[Tensor]) -> list[Tensor]:
    """The leaves of the graph of some tensors."""
    return [leaf for node in nodes_of(*made) if (leaf := getattr(node, "variable", None)) is not None]
