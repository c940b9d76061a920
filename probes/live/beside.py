"""What a run trains beside the watched heads: logits over a vocabulary of the model, by their live gradients; the rest.

Only modules whose output is as wide as an embedding of the model has rows may give logits. What else is trained shows
in the graph of the first backward: parameters that it reaches past the watched heads. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from alignment import Finding
from alignment.findings import finding

from ..finder.also import outermost
from ..finder.candidates import has_form, nodes_above
from ..finder.found import shaped
from ..models.adapter import Adapter
from ..models.modules import unwrapped
from ..models.token_ids import vocabularies

__all__ = ["Beside"]


@dataclass(frozen=True)
class _Seen:
    """Logits by their look: who gave them or handed on a layer's, their shape, how many rows have a gradient."""

    path: str
    shape: tuple[int, ...]
    rows: int
    handed_on: bool


class Beside:
    """Notes what modules give that are no watched heads, and what comes back to it.

    Args:
        root: the module that the script calls.
        adapter: of the model in it.
        safely: what a hook is wrapped in.
    """

    def __init__(self, root: nn.Module, adapter: Adapter, safely: Callable[[Callable[..., None]], Any]) -> None:
        inner = unwrapped(root)
        self._safely = safely
        self._names = {module: path for path, module in inner.named_modules() if path}
        self._sizes = {size for size in vocabularies(inner) if size > 2}
        self._parameters = {id(part): name for name, part in inner.named_parameters()}
        self._watched: list[Any] = []
        self._others: list[Any] = []
        self._past: set[str] | None = None
        self._found: dict[str, _Seen] = {}

    def watched(self, output: Tensor) -> None:
        """A watched head gave this."""
        self._watched.append(output.grad_fn)

    def may_be_watched(self, output: Tensor) -> None:
        """A module that may turn out to be a head gave this."""
        self._others.append(output.grad_fn)

    def saw(self, module: nn.Module, output: Any) -> None:
        """A module that is no watched head gave this."""
        path = self._names.get(module)
        wide = isinstance(output, Tensor) and output.dim() > 1 and output.shape[-1] in self._sizes
        if path is None or not wide or not output.requires_grad or isinstance(module, nn.Embedding):
            return
        value, version, node = output.detach(), output._version, output.grad_fn  # noqa: SLF001 - its only name
        handed_on = node in self._others

        def seen(grad: Tensor) -> None:
            if value._version == version and path not in self._found and self._is_logits(value, grad, node):  # noqa: SLF001
                rows = int((grad != 0).any(-1).sum())
                self._found[path] = _Seen(path, tuple(value.shape), rows, handed_on)

        output.register_hook(self._safely(seen))

    def passed(self, roots: Sequence[Tensor] = ()) -> None:
        """A backward from ``roots`` has ended: nothing of its graph is held."""
        if self._past is None and self._watched:
            feeding = {*self._watched, *self._others}
            feeding |= nodes_above(feeding)
            reached = nodes_above([one.grad_fn for one in roots], feeding.__contains__) - feeding
            variables = [node.variable for node in reached if hasattr(node, "variable")]
            names = [(self._parameters.get(id(one)), one.grad) for one in variables]
            self._past = {name for name, grad in names if name and grad is not None and bool((grad != 0).any())}
        self._watched.clear()
        self._others.clear()

    def notes(self, judged: Sequence[nn.Module] = ()) -> list[str]:
        """What else is trained, outermost modules for their parts: no judged head, and none that LA801 names."""
        told = [*self._found, *(self._names.get(module) for module in judged)]
        rest = outermost(self._past or set(), self._parameters.values())
        return [f"also trained: {name}" for name in rest if not any(_lies_in(name, path) for path in told if path)]

    def findings(self, judged: Sequence[nn.Module] = ()) -> list[Finding]:
        """LA801 of each head that is trained and not among those that were judged."""
        told = {self._names.get(module) for module in judged}
        return [
            finding(
                "LA801",
                one.path,
                f"{shaped(one.path, one.shape)} is trained as logits over a vocabulary of the model and is not watched",
                count=one.rows,
            )
            for one in sorted(self._of_one_kind(), key=lambda one: one.path)
            if one.path not in told and not (one.handed_on and any(_lies_in(path, one.path) for path in told if path))
        ]

    def _of_one_kind(self) -> Iterable[_Seen]:
        """What was seen, a module inside another that gave the same once."""
        return [one for one in self._found.values() if not any(one.path.startswith(f"{p}.") for p in self._found)]

    def _is_logits(self, value: Tensor, grad: Tensor, node: Any) -> bool:
        """Whether it has the form of logits, is no watched head's output, and neither feeds one nor is made of it."""
        width = value.shape[-1]
        rows, back = value.reshape(-1, width), grad.reshape(-1, width)
        if not has_form(rows, back):
            return False
        mine = {node, *nodes_above([node])}
        return not mine.intersection(self._watched) and node not in nodes_above(self._watched)


def _lies_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
