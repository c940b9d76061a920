"""What is trained by a model's gradient: parameters of its own, and those that its logits are made of beside them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

__all__ = ["Trained"]


class Trained:
    """Knows which optimizers train a model.

    Args:
        root: as the script calls it.
        logits: of a frozen model, or what they are made of: a projector in front of it need not be part of it.
    """

    def __init__(self, root: nn.Module, logits: Tensor | None = None) -> None:
        self._root = root
        self._beyond = set() if logits is None else _leaves(logits)

    def by(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer holds any of the parameters."""
        own = {id(parameter) for parameter in self._root.parameters()} | self._beyond
        return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])


def _leaves(made: Tensor) -> set[int]:
    """Identities of the leaves of a tensor's graph."""
    leaves, known, nodes = set(), set(), [made.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in known:
            continue
        known.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        nodes += [below for below, _ in node.next_functions]
    return leaves
