"""Any transformers model with an output head, and any torch module whose heads the user names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError
from ..host.forward_patch import signature_of
from .adapter import Head, View
from .checkpoint import load_causal_lm
from .modules import (
    feeder,
    head_by_size,
    is_pretrained,
    module_at,
    output_embeddings,
    pretrained_models,
    unwrapped,
    vocabulary_of,
    widest_layers,
)
from .reading import is_encoder_decoder
from .text_batch import TARGETS, TextBatch
from .text_runs import TextRuns

__all__ = ["CausalLMAdapter", "load_causal_lm"]


class CausalLMAdapter(TextBatch, TextRuns):
    """A model with one text stream: what its output head predicts from the ids it reads.

    Decoder-only and multimodal models read ``input_ids``, encoder-decoder models the ids that reach
    their decoder. Labels may follow either convention: the ids tell which. Heads named by the user
    read the same ids: the first is the text stream, each further one a stream of its own with the same
    labels, called ``head[its path]``; how far ahead it predicts is said by ``looking``.

    Args:
        model: the model, wrapped or not (PEFT, DDP, FSDP, torch.compile, accelerate).
        heads: dotted paths of head modules (``--head``); the model's output embeddings if empty.
        found: the adapter of the first alone, where the others were not named and may be no heads.

    Attributes:
        all_of: a loss, a batch, and the heads beside which it was seen to use nothing there but what feeds them; None
            where that was not looked at.

    Raises:
        UsageError: no head found, a path that names no module, heads of several vocabularies.
    """

    label_keys: tuple[str, ...] = ("labels", "shift_labels")
    #: Keyword arguments that say which ids a forward reads.
    id_keys: tuple[str, ...] = ("input_ids",)
    special_ids: Mapping[str, int] = MappingProxyType({})
    all_of: tuple[Any, Mapping[str, Any], tuple[Head, ...]] | None = None
    #: Whether the model itself lays the rows that look further ahead over their targets.
    lays_rows = False

    def __init__(self, model: nn.Module, heads: Sequence[str] = (), found: CausalLMAdapter | None = None) -> None:
        self._known = None if heads else _owning(model)
        self._names, self.found = tuple(heads) or (() if self._known else _by_size(model)), found
        self._feeds: tuple[nn.Module, nn.Module, nn.Module] | None = None
        inner, named = self._parts(model)
        self.name = type(inner).__name__
        self._encoder_decoder = is_encoder_decoder(inner)
        parameters = list(signature_of(inner).parameters)
        if self._encoder_decoder:
            self.id_keys = ("decoder_input_ids", *self.label_keys)
        elif "input_ids" not in parameters:  # a module of the user's own: its first argument takes the ids
            self.id_keys = ("input_ids", *parameters[1:2])
            if TARGETS in parameters:
                self.label_keys = (*self.label_keys, TARGETS)
        sizes = {name: vocabulary_of(head, inner) for name, head in named}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise UsageError(
                f"heads of several vocabularies ({listed}): declare them as streams, or check them one at a time"
            )
        self._vocab = next(iter(sizes.values()))
        self.ahead: tuple[int, ...] = (1,) * len(named)
        self.calls: tuple[int, ...] = ()
        self.fed = ""
        self._searched: tuple[Any, tuple[int, ...]] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Of its heads, as they were named."""
        return self._names

    @property
    def is_guess(self) -> bool:
        """Whether its head is told by its size alone; also where it was named, which it does not know."""
        return bool((self.found or self).paths)

    def main(self, model: nn.Module) -> nn.Module:
        """The first head."""
        return self._heads(model)[0][1]

    def modules(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Its heads, in their order."""
        return tuple(head for _, head in self._heads(model))

    def looking(self, ahead: Sequence[int]) -> CausalLMAdapter:
        """The same adapter, its heads meant to predict so far ahead, in their order."""
        out = copy(self)
        out.ahead = tuple(ahead)
        return out

    def called(self, calls: Sequence[int]) -> CausalLMAdapter:
        """The same adapter of one head that a forward calls again: each of these calls is a stream.

        The first of them is the text stream, the others are called ``text call 2`` and on.
        """
        out = copy(self)
        out.calls, out.ahead = tuple(calls), (1,) * len(calls)
        return out

    def fed_by(self, part: str, key: str) -> CausalLMAdapter:
        """The same adapter of a module of the user's own, whose head reads what ``part`` makes of the ids ``key``."""
        out = copy(self)
        out.fed, out.id_keys = part, tuple(dict.fromkeys((key, *self.id_keys)))
        return out

    # -- the model -------------------------------------------------------------------------------

    def inner(self, model: nn.Module) -> Any:
        """The outermost transformers model that owns the head; a user's own module below its wrappers.

        Raises:
            UsageError: no head is known, and none was named.
        """
        return self._owner(model)[0]

    def _owner(self, model: nn.Module) -> tuple[Any, Any]:
        """The same, and the output embeddings that it names; None in their place where heads were named."""
        if self._names:
            return next(pretrained_models(model), None) or unwrapped(model), None
        if self._known is not None:  # a model looks long for its head
            asked, inner, head = self._known
            if asked is model and head in inner._modules.values():  # noqa: SLF001 - children() makes a set
                return inner, head
        self._known = _owning(model)
        if self._known is not None:
            return self._known[1:]
        if type(model).__name__.endswith("ForCTC"):
            raise UsageError(
                f"{type(model).__name__} is trained by CTC, which lays its targets itself: no row belongs to a token, "
                "and there is no pairing to judge"
            )
        raise UsageError(
            f"{type(model).__name__} has no output head that transformers knows of: name the layer that gives "
            f"the logits with --head ({widest_layers(model)})"
        )

    def body(self, model: nn.Module) -> nn.Module | None:
        """The base model that feeds the head; None in a module of the user's own, unless a part of it is known to."""
        inner, named = self._parts(model)
        head = named[0][1]
        if self.fed:
            return inner.get_submodule(self.fed)
        if self._feeds is not None:  # what is looked for as long as the head
            owner, fed, body = self._feeds
            if owner is inner and fed is head and body in inner._modules.values():  # noqa: SLF001 - as for the head
                return body
        body = feeder(inner, head)
        self._feeds = None if body is None else (inner, head, body)
        return body

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """One head per stream: the output embeddings, or the modules that were named."""
        if self.calls:
            head, streams = self._heads(model)[0][1], view.streams
            return tuple(Head(streams[n].name, head, (n,), call=nth) for n, nth in enumerate(self.calls))
        named = enumerate(self._heads(model))
        return tuple(Head(view.streams[number].name, module, (number,)) for number, (_, module) in named)

    def _heads(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        return self._parts(model)[1]

    def _parts(self, model: nn.Module) -> tuple[Any, list[tuple[str, nn.Module]]]:
        """The model that owns the heads (see ``inner``), and these by their names."""
        inner, head = self._owner(model)
        if self._names:
            return inner, [(name, module_at(model, inner, name)) for name in self._names]
        if isinstance(head, (nn.ModuleList, nn.ModuleDict)):
            inside = set(head.children())
            listed = " ".join(f"--head {path}" for path, part in inner.named_modules() if part in inside)
            raise UsageError(f"{type(inner).__name__} has {len(head)} output heads: name one ({listed})")
        return inner, [("text", head)]

    def outputs(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Any:
        """A forward; a module of the user's own is given what it takes, and its logits are called so."""
        inner = self.inner(model)
        if is_pretrained(inner):
            return model(**kwargs)
        return SimpleNamespace(logits=self._logits(model(**self._taken(inner, kwargs))))

    def _taken(self, inner: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that a module of the user's own takes, its ids under its own name."""
        parameters = signature_of(inner).parameters
        ids = next((key for key in self.id_keys if kwargs.get(key) is not None), self.id_keys[-1])
        given = {self.id_keys[-1]: kwargs.get(ids), **kwargs}
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            return given
        return {key: value for key, value in given.items() if key in parameters}

    def _logits(self, out: Any) -> Tensor | None:
        """What of the module's outputs has as many columns as its head."""
        found = getattr(out, "logits", out.get("logits") if isinstance(out, Mapping) else None)
        for one in (found, *(out if isinstance(out, (tuple, list)) else (out,))):
            if isinstance(one, Tensor) and one.dim() > 1 and one.shape[-1] == self._vocab:
                return one
        return None


def _owning(model: nn.Module) -> tuple[nn.Module, Any, nn.Module] | None:
    """A model, the outermost transformers model in it that names its output head, and that head; None without."""
    for candidate in pretrained_models(model):
        head = output_embeddings(candidate)
        if isinstance(head, nn.Module):
            return model, candidate, head
    return None


def _by_size(model: nn.Module) -> tuple[str, ...]:
    """The head of a module that transformers knows nothing of, where its size tells."""
    path = head_by_size(unwrapped(model))
    return (path,) if path else ()
