"""Audio models with one stream per codebook, known by their class: declared streams whose rows lie as their ids do.

Codes, labels and masks are brought to (B, T, K), so that every codebook has the rows of the sequence, text beside
them or not. Of a whole model only its loss is asked: what it hands back is laid out otherwise in each family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from ..host.walk import descends, modules_of
from .adapter import Batch, Head, View, find_instance
from .csm import CSM
from .declared_heads import declared_heads, unfolded
from .dia import DIA
from .family import Family
from .kyutai import KYUTAI
from .moshi import MOSHI
from .musicgen import MUSICGEN
from .stream_entries import read_streams
from .streams import StreamsAdapter

__all__ = ["CodebookAdapter", "family_of"]

FAMILIES = (CSM, DIA, KYUTAI, MOSHI, MUSICGEN)


def family_of(model: nn.Module) -> Family | None:
    """The family of which a model is, or wraps, one; None if none is known."""
    found = {number for kind in {type(module) for module in modules_of(model)} for number in _families_of(kind)}
    return FAMILIES[min(found)] if found else None


@lru_cache(maxsize=4096)
def _families_of(kind: type) -> tuple[int, ...]:
    """Numbers of the families that a class is of."""
    named = [[descends(kind, name, "transformers") for name in family.classes] for family in FAMILIES]
    return tuple(number for number, one in enumerate(named) if any(one))


def _instance(model: nn.Module, family: Family) -> Any:
    """The outermost model of a family's classes, below any wrapper."""
    found = (find_instance(model, name, "transformers") for name in family.classes)
    return next((one for one in found if one is not None), None)


class CodebookAdapter(StreamsAdapter):
    """What ``check_loss`` asks of a family.

    Args:
        model: wrapped or not.
        family: of the model.
    """

    special_ids: Mapping[str, int] = MappingProxyType({})

    def __init__(self, model: nn.Module, family: Family) -> None:
        self.family, self.name = family, family.name
        self.id_keys, self.label_keys = family.ids, family.labels
        #: Arguments that are no ids and say what the codes are: ``run`` keeps them of every forward that it watches.
        self.signals = family.signals
        inner = self.inner(model)
        super().__init__(unfolded(inner, read_streams(family.streams(inner), family.name), None))
        self._vocabularies = _vocabularies(self.heads(model))

    @property
    def books(self) -> tuple[int, ...]:
        """The numbers of the streams that are codebooks; of the text, where codes are only heard."""
        found = tuple(number for number, one in enumerate(self.declared) if one.name.startswith("audio"))
        return found or (0,)

    def inner(self, model: nn.Module) -> Any:
        """The outermost model of the classes, below any wrapper."""
        inner = _instance(model, self.family)
        if inner is None:
            raise InputError(f"{type(model).__name__} holds no {' or '.join(self.family.classes)}")
        return inner

    def body(self, model: nn.Module) -> nn.Module | None:
        """Whose rows the heads read."""
        inner = self.inner(model)
        return attrgetter(self.family.body)(getattr(inner, "decoder", inner))

    def fed(self, model: nn.Module) -> tuple[nn.Module, str] | None:
        """The layers between the body and the head of further codebooks, and their argument."""
        fed = self.family.fed
        return None if fed is None else (getattr(self.inner(model), fed[0]), fed[1])

    def codec(self, model: nn.Module) -> nn.Module | None:
        """What makes codes in a forward, and is trained by no loss on them."""
        return attrgetter(self.family.codec)(self.inner(model)) if self.family.codec else None

    def heads(self, model: nn.Module, view: View | None = None) -> tuple[Head, ...]:
        """The declared ones; those that lie in the layers between are fed by these."""
        heads, fed = declared_heads(self.inner(model), self.declared), self.fed(model)
        inside = set() if fed is None else set(fed[0].modules())
        return tuple(replace(_stacked(head), fed=fed if head.module in inside else None) for head in heads)

    def vocabulary(self, number: int) -> int:
        """As declared, else as the weight of its head shows."""
        return super().vocabulary(number) or self._vocabularies[number]

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse codes of another shape or number of codebooks, as the view does.

        Raises:
            InputError: codes that the streams cannot be made of.
        """
        self.view(model, batch)

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ids that every head may see as an ordinary code."""
        return self.ordinary(min(stream.vocab for stream in view.streams))

    def codes(self) -> Tensor:
        """(n,) int64: the ordinary codes of all codebooks."""
        return self.ordinary(min(self.vocabulary(number) for number in self.books))

    def text(self, batch: Mapping[str, Any]) -> Tensor | None:
        """(B, T): the ids of text that stands beside codes in one tensor, which trains no codes; None elsewhere."""
        alone = [one.name for one in self.declared] == ["text"]
        given = isinstance(batch.get(self.id_keys[0]), Tensor)
        return self.ids(0, batch) if alone and given else None

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with other codes, labels following; in codes, where a codec made them."""
        given = batch if self.family.in_codes is None else self.family.in_codes(self.inner(model), batch)
        return super().relabel(model, given, view, ids, foreign)


def _stacked(head: Head) -> Head:
    """A head whose streams lie one behind another on the axis before the last."""
    lanes = [f"[..., {lane}, :]" for lane in range(head.books)]
    return replace(head, stacked=True, places=()) if [place.index for place in head.places] == lanes else head


def _vocabularies(heads: Sequence[Head]) -> dict[int, int]:
    """How many ids the streams of heads with a weight of two axes score."""
    weights = [(head, getattr(head.module, "weight", None)) for head in heads]
    two = [(head, weight) for head, weight in weights if isinstance(weight, torch.Tensor) and weight.dim() == 2]
    return {number: weight.shape[0] // head.books for head, weight in two for number in head.streams}
