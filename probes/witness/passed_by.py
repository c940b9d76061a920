"""A body that nobody reads is passed by: layers of a known decoder hand on what they were given.

Where noise stands in for the logits, the rows of a body are numbers and no more, so that its layers compute nothing
that is looked at. One layer of each make runs all the same: what it gives says how its like hand on their rows, and
that they draw no random numbers and stay finite. Where anything else may read a layer, all of them run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..host.forward_patch import ForwardPatch
from ..host.modes import asleep
from ..host.walk import modules_of, parameters_of
from ..models.declared_heads import with_field
from ..models.forward import all_finite
from .onlookers import Onlookers, is_written_in
from .skipped_product import largest

__all__ = ["BodyReadError", "PassedBy"]

#: Whose forward is known to read no layer of its body but through the head.
KNOWN = "transformers.models."
#: Whose modules a layer may be made of: one of a user's own may keep what it sees.
PARTS = ("transformers.", "torch.nn.", "peft.")
#: Where a body keeps its layers, itself or one inside it.
BODIES = ("language_model", "text_model", "decoder")
LAYERS = ("layers", "h", "blocks")
#: Keywords, and entries of a configuration, by which somebody asks for what a layer gives.
ASKED = ("output_hidden_states", "output_attentions", "output_router_logits", "past_key_values", "cache_params")
CACHES = ASKED[-2:]
#: What a module has, on which it depends whether it draws random numbers.
DRAWING = ("training", "p", "attention_dropout")
#: Overflows where a float32 does not: its layers are looked at.
NARROW = torch.float16
#: Rows are normalised before each layer: with weights up to here their products stay far below what float32 holds.
LARGEST = 1e4


#: What a layer gives of its rows and its keywords.
Way = Callable[[Tensor, Mapping[str, Any]], Any]


class BodyReadError(Exception):
    """What was passed by is read after all: the loss has to run again, with all layers."""


class _Unfilled:
    """Stands where the cache would of a forward whose layers were passed by: whoever looks into it is told."""

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told

    def _refuse(self, *_: Any) -> Any:
        self._told()
        raise BodyReadError("a cache of a forward whose layers were passed by")

    __getattr__ = __getitem__ = __len__ = __iter__ = __bool__ = __contains__ = _refuse


class PassedBy:
    """Stand around the layers of a model that is captured.

    Args:
        inner: the model that owns the head.
        body: what feeds it.
        modes: that have nothing to see in a body which is passed by.
    """

    def __init__(self, inner: nn.Module, body: nn.Module, modes: Collection[TorchFunctionMode] = ()) -> None:
        self.inner, self._modes = inner, modes
        owner, layers = _layers(body) if _is_known(inner, body) else (body, [])
        self._onlookers = Onlookers(inner, body, owner)
        self.layers = [] if self._onlookers.any() else layers
        self.passed, self.read = 0, False
        self._before = 0
        self._ways: dict[Any, Way | None] = {}
        self._open = False
        several = self.layers if len(self.layers) > 1 else []  # of one that is alone there is none like it
        self._patches = [ForwardPatch(layer, self._around) for layer in several]
        if self.layers:
            self._patches.append(ForwardPatch(body, self._around_body))

    def settle(self) -> None:
        """All hooks of ours are set: any further one is somebody else's."""
        if self.layers:
            self._onlookers.settle()

    def remove(self) -> None:
        """Put the body's and the layers' own forwards back."""
        for patch in self._patches:
            patch.remove()

    def begin(self, given: Mapping[str, Any], *, unseen: bool) -> None:
        """A forward of the model begins, with these arguments; ``unseen`` if a leaf will stand in for its logits.

        Raises:
            BodyReadError: it goes on from a cache that layers which were passed by should have filled.
        """
        if self.passed and any(given.get(name) is not None for name in CACHES):
            self._note_read()
            raise BodyReadError("a cache of a forward whose layers were passed by")
        self._before = self.passed
        self._open = bool(self.layers) and unseen and not self._asked(given) and not self._onlookers.came()

    def without_cache(self, outputs: Any) -> Any:
        """The outputs of the forward that is under way, with a cache that tells of whoever looks into it."""
        if self.passed == self._before:
            return outputs
        if isinstance(outputs, tuple):
            names = [str(nth) for nth, one in enumerate(outputs) if type(one).__name__.endswith("Cache")]
        else:
            names = [name for name in CACHES if getattr(outputs, name, None) is not None]
        for name in names:
            outputs = with_field(outputs, name, _Unfilled(self._note_read))
        return outputs

    def _note_read(self) -> None:
        self.read = True

    def end(self) -> None:
        """The forward is over."""
        self._open = False

    def _asked(self, given: Mapping[str, Any]) -> bool:
        config = getattr(self.inner, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else None
        configs = (config,) if text is config else (config, text)  # a model of text alone has one
        told = any(getattr(one, name, None) is True for one in configs for name in ASKED)
        wanted = any(given.get(name) not in (None, False) for name in ASKED)
        return told or wanted or given.get("use_cache") is True

    def _around_body(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self._open:
            return forward(*args, **kwargs)
        with asleep(self._modes):
            return forward(*args, **kwargs)

    def _around(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        rows = args[0] if args else kwargs.get("hidden_states")
        if not self._open or not isinstance(rows, Tensor) or _is_narrow(rows):
            return forward(*args, **kwargs)
        make = _make(module)
        if make not in self._ways:
            before = _random_states(rows.device)
            out = forward(*args, **kwargs)
            same = all(torch.equal(one, other) for one, other in zip(before, _random_states(rows.device), strict=True))
            self._ways[make] = _way(rows, out, kwargs) if same else None
            return out
        way = self._ways[make]
        if way is None or not _is_sound(module):
            return forward(*args, **kwargs)
        self.passed += 1
        return way(rows, kwargs)


def _is_known(inner: nn.Module, body: nn.Module) -> bool:
    """Whether a forward is that of the library itself, and of a decoder."""
    config = getattr(inner, "config", None)
    own = all(_is_the_librarys(type(one)) for one in (inner, body))
    return own and not getattr(config, "is_encoder_decoder", False)


def _is_the_librarys(kind: type) -> bool:
    return kind.__module__.startswith(KNOWN) and is_written_in(kind.forward, ("transformers",))


def _layers(body: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """What holds the layers of a body, and those; none where any is somebody else's or sharded."""
    for owner in (body, *(getattr(body, name, None) for name in BODIES)):
        found = next((one for name in LAYERS if isinstance(one := getattr(owner, name, None), nn.ModuleList)), None)
        if owner is not None and found is not None:
            plain = all(type(one) is nn.Parameter for one in parameters_of(found))
            known = all(_is_the_librarys(type(layer)) for layer in found)
            own = any(not type(part).__module__.startswith(PARTS) for part in modules_of(found))
            return owner, list(found) if plain and known and not own else []
    return body, []


def _make(module: nn.Module) -> tuple[Any, ...]:
    """What a layer is made of, and what decides whether it draws random numbers."""
    parts = [(type(one), vars(one)) for one in modules_of(module)]
    return tuple((kind, *map(own.get, DRAWING)) for kind, own in parts)


def _is_narrow(rows: Tensor) -> bool:
    """Whether a layer computes in float16."""
    kind = rows.device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == NARROW
    return cast or rows.dtype == NARROW


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _way(rows: Tensor, out: Any, kwargs: Mapping[str, Any]) -> Way | None:
    """How a layer hands on rows: alone, or first of a tuple; None where it gives what it was not given."""
    first = out[0] if isinstance(out, tuple) and out else out
    alike = isinstance(first, Tensor) and first.shape == rows.shape and first.dtype == rows.dtype
    if not alike or not all_finite(first):
        return None
    if isinstance(out, Tensor):
        return lambda given, _: given
    named = {id(value): name for name, value in kwargs.items() if value is not None}
    names = ["" if one is None else named.get(id(one)) for one in out[1:]]
    if type(out) is not tuple or any(name is None for name in names):
        return None
    return lambda given, told: (given, *(told.get(name) for name in names))


def _is_sound(module: nn.Module) -> bool:
    """Whether no weight of a layer can make it overflow, in the range of float32."""
    weights = [one for one in parameters_of(module) if one.is_floating_point() and one.numel()]
    return all(one.dtype != NARROW and largest(one) <= LARGEST for one in weights)
