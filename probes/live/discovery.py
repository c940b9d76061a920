"""Which model does a script train? Found at the first forward of a module that holds one with an output head.

A model whose own parameters are frozen may be trained through all the same: a projector gives it embeddings, or
prompts are learnt. Whether it is shows only when its logits turn out to carry a gradient.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any
from weakref import WeakSet

from torch import nn

from alignment import InputError

from ..errors import UsageError
from ..models import Adapter, adapter_for
from ..models.causal_lm import CausalLMAdapter
from ..models.declaration import Declaration
from ..models.declared import DeclaredAdapter
from ..models.registry import registered
from .eagerly import Eagerly, is_compiled
from .further import with_candidates
from .search import Search

__all__ = ["Discovery", "Found"]


@dataclass(frozen=True)
class Found:
    """A model that is trained, or may be trained through.

    Attributes:
        root: the module that the script calls.
        adapter: of the model in it.
        trained: whether any parameter of the model is; where none is, only its logits can tell.
        begun: whether its forward had already begun: then the first forward is not seen whole.
    """

    root: nn.Module
    adapter: Adapter
    trained: bool
    begun: bool = False

    @property
    def inner(self) -> nn.Module:
        """The model itself, below what wraps it."""
        return self.adapter.inner(self.root)


class Discovery:
    """Looks at modules as they are called, each once.

    Attributes:
        heads: names of head modules (``--head``).
        streams: declared ones (``--streams``); none if empty.
        eagerly: what lets compiled modules run eagerly.
        unwatchable: why a module that was met cannot be watched; empty if none was.
    """

    def __init__(
        self, heads: Sequence[str] = (), streams: Sequence[Declaration] = (), eagerly: Eagerly | None = None
    ) -> None:
        self.heads = tuple(heads)
        self.streams = tuple(streams)
        self.eagerly = eagerly or Eagerly()
        self.unwatchable = ""
        self._seen: WeakSet[nn.Module] = WeakSet()
        self._searched: WeakSet[nn.Module] = WeakSet()
        self._reasons: list[tuple[bool, int, int, str]] = []

    @property
    def reason(self) -> str:
        """Why the largest module that was called is none, trained ones first; empty if no module was called."""
        return max(self._reasons)[-1] if self._reasons else ""

    def consider(self, module: nn.Module, received: Mapping[str, Any] | None = None) -> Found | None:
        """What a module that is being called shows; ``received`` are its arguments, where they are known."""
        if module in self._seen:
            return None
        self._seen.add(module)
        unwatchable = self._unwatchable(module)
        if unwatchable and _is_trained(module):
            self.unwatchable = unwatchable
        if unwatchable:
            self._note(module, unwatchable)
            return None
        found = self._found(module, received)
        if found is not None:
            return found
        enclosing = list(_enclosing(sys._getframe(2)))  # noqa: SLF001 - forwards that were called by their name
        for around in enclosing or _owners(module):
            if around not in self._seen:
                self._seen.add(around)
                found = self._found(around)
                if found is not None:
                    return replace(found, begun=bool(enclosing))
        return None

    def may_search(self, module: nn.Module, guess: Adapter | None = None) -> bool:
        """Whether a module of people's own, of which nothing was named, may show its streams as it is trained.

        Args:
            module: that is called.
            guess: what its layers look like; None if like nothing.
        """
        known = guess is not None and not (isinstance(guess, CausalLMAdapter) and guess.is_guess)
        named = self.heads or self.streams or module in self._searched
        return not known and not named and Search.fits(module)

    def searched(self, module: nn.Module, reason: str) -> None:
        """A module has shown no stream in a backward, or none that is clear (``reason``)."""
        self._searched.add(module)
        if reason:
            self._note(module, reason)

    def give_up(self, found: Found) -> None:
        """No gradient can reach the logits of a frozen model; it may be met again."""
        self._seen.discard(found.root)
        self._note(found.root, f"{type(found.inner).__name__} is frozen, and nothing that is trained reaches it")

    def _found(self, module: nn.Module, received: Mapping[str, Any] | None = None) -> Found | None:
        """A module, if it holds a model whose head is known."""
        try:
            streams = self.streams or (() if self.heads else registered(module))
            adapter = DeclaredAdapter(module, streams, received) if streams else adapter_for(module, self.heads)
            adapter = adapter if self.heads else with_candidates(module, adapter)
            inner = adapter.inner(module)
        except (InputError, UsageError) as error:
            if _is_trained(module):
                self._note(module, str(error))
            return None
        return Found(module, adapter, _is_trained(inner))

    def _unwatchable(self, module: nn.Module) -> str:
        """Why hooks would not see what a module does, or would change it; empty if they see it."""
        name = type(module).__name__
        if is_compiled(module) and not self.eagerly.covers(module):
            return (
                f"the model is compiled ({name}), which hides its gradients from hooks: run it with --eager, and the "
                "watched steps are eager ones; with TORCH_COMPILE_DISABLE=1, and all of them are; or give its Trainer "
                "an AlignmentCallback"
            )
        if name == "DataParallel" and len(getattr(module, "device_ids", ())) > 1:
            return "DataParallel copies the model at every step: run it on one device, or under torchrun"
        return ""

    def _note(self, module: nn.Module, reason: str) -> None:
        size = sum(parameter.numel() for parameter in module.parameters())
        self._reasons.append((_is_trained(module), size, len(self._reasons), reason))  # of one module, the last


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _enclosing(frame: FrameType | None) -> Iterator[nn.Module]:
    """The modules whose ``forward`` is on the stack, outermost first."""
    owners: list[Any] = []
    while frame is not None:
        if frame.f_code.co_name == "forward":
            owners.append(frame.f_locals.get("self"))
        frame = frame.f_back
    return (owner for owner in reversed(owners) if isinstance(owner, nn.Module))


def _owners(module: nn.Module) -> list[nn.Module]:
    """Live modules that hold a module which was called by itself, as trainers call a model's body; smallest first."""
    live = [one for one in gc.get_objects() if issubclass(type(one), nn.Module) and one is not module]
    holding = [(len(list(one.modules())), one) for one in live if any(part is module for part in one.modules())]
    return [one for _, one in sorted(holding, key=lambda pair: pair[0])]
