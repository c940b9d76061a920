"""What a watched forward was given: what is kept of it, and whether the forward can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from ..models.adapter import Adapter, Batch
from ..models.codebooks import CodebookAdapter
from ..models.embedded import embedded_ids
from ..models.reading import CACHE
from .standing_still import device_of, moved

__all__ = ["Received", "kept", "label_entries"]


@dataclass
class Received:
    """What one forward was given.

    Attributes:
        small: its arguments, small ones only, on the CPU.
        large: the others of the first forward: images, embeddings in place of ids.
        whole: whether it was nothing but tensors, numbers and words, and no keys and values of what came before.
        lacking: whether there are large ones, and they are not kept.
        wrapper: the script's own module that made the forward, and what that was given; None where no wrapper did, or
            one that was given other things than tensors, numbers and words.
    """

    small: Batch
    large: Batch = field(default_factory=dict)
    whole: bool = True
    lacking: bool = False
    wrapper: tuple[nn.Module, Batch] | None = None

    @classmethod
    def of(cls, given: Batch, adapter: Adapter, inner: nn.Module, *, first: bool) -> Received:
        """What the innermost model was given; of the ``first`` forward, the one that is made again, all of it."""
        signals = adapter.signals if isinstance(adapter, CodebookAdapter) else ()
        small = {key: kept(value, whole=key in signals) for key, value in given.items()}
        embeddings = given.get("inputs_embeds")
        if isinstance(embeddings, Tensor) and small.get("input_ids") is None:
            small["input_ids"] = kept(embedded_ids(inner, embeddings))
        if given.get(CACHE) is not None:
            small[CACHE] = True  # that there is one is all that matters
        large = {key: value for key, value in given.items() if value is not None and small[key] is None}
        whole = all(isinstance(value, Tensor) for value in large.values()) and given.get(CACHE) is None
        if not first:
            return cls(small, whole=whole, lacking=bool(large))
        return cls(small, {key: value.detach() for key, value in large.items() if isinstance(value, Tensor)}, whole)

    def note_wrapper(self, module: nn.Module, given: Batch) -> None:
        """A module of the script's own has made the forward on the same ids, and was given this."""
        ids = [key for key, value in given.items() if _same(value, self.small.get("input_ids"))]
        told = {key: kept(value, whole=True) for key, value in given.items() if value is not None}
        if ids == ["input_ids"] and None not in told.values():
            self.wrapper = module, told

    def again(self, module: nn.Module | None, beyond: str = "") -> tuple[nn.Module, Batch]:
        """The module whose forward it was, and what that was given, to make it again.

        Args:
            module: that was called.
            beyond: a head that has read what layers of the wrapper make, so that the wrapper's forward is meant.

        Raises:
            InputError: it cannot be made again.
        """
        if not self.whole or self.lacking:
            raise InputError("the watched forward reads keys and values of what came before, or other objects")
        if module is None:
            raise InputError("the watched forward is no call of the model")
        if not beyond:
            return module, moved({**self.small, **self.large}, device_of(module))
        if self.wrapper is None:
            raise InputError(f"what {beyond} has read is not made by the body, which alone can be run again")
        module, given = self.wrapper
        return module, moved(given, device_of(module))


def _same(value: Any, ids: Any) -> bool:
    both = isinstance(value, Tensor) and isinstance(ids, Tensor) and not value.is_floating_point()
    return both and torch.equal(value.cpu(), ids)


def kept(value: Any, *, whole: bool = False) -> Any:
    """An argument as it was: ids, labels and masks are copied, what is large only where ``whole`` says so."""
    if not isinstance(value, Tensor):
        return value if isinstance(value, (int, float, bool, str)) else None
    if not whole and value.dim() > (2 if value.is_floating_point() else 3):
        return None
    return value.detach().to("cpu", copy=True)


def label_entries(given: Mapping[Any, Any]) -> Batch:
    """What is called a label among the arguments of a wrapper."""
    return {str(key): kept(value) for key, value in given.items() if "label" in str(key) and isinstance(value, Tensor)}
