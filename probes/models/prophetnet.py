"""ProphetNet: ``ProphetNetForConditionalGeneration`` and its decoder alone, one head called once over several n-grams.

A row of its first n-gram predicts the next token, a row of the second the one after it, and so on; the model lays all
of them over their target, and trains each on the same labels (``_compute_loss`` in modeling_prophetnet.py of
transformers 5.23.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from .adapter import Head, View
from .causal_lm import CausalLMAdapter
from .modules import pretrained_models
from .place import Place

__all__ = ["ProphetNetAdapter"]


class ProphetNetAdapter(CausalLMAdapter):
    """Logits (B, n-grams, T, V): a stream for each n-gram that is trained, ``text`` and ``text ngram 2`` and on."""

    classes = (
        "ProphetNetForConditionalGeneration",
        "ProphetNetForCausalLM",
        "XLMProphetNetForConditionalGeneration",
        "XLMProphetNetForCausalLM",
    )
    lays_rows = True

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether ``model`` is, or wraps, one of the classes."""
        return type(next(pretrained_models(model), None)).__name__ in cls.classes

    def _ngrams(self, model: nn.Module) -> int:
        config = self.inner(model).config
        return 1 if config.disable_ngram_loss else config.ngram

    def heads(self, model: nn.Module, view: View) -> tuple[Head, ...]:
        """One head, the n-grams on the axis behind the samples."""
        numbers = tuple(range(len(view.streams)))
        places = tuple(Place("", f"[:, {number}]") for number in numbers)
        return (Head("text", self.main(model), numbers, places=places),)

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream once for each n-gram."""
        view, count = super().view(model, batch), self._ngrams(model)
        text = view.streams[0]
        names = [text.name, *(f"{text.name} ngram {number}" for number in range(2, count + 1))]
        return replace(
            view,
            streams=tuple(replace(text, name=name) for name in names),
            labels=view.labels * count,
            carried=view.carried * count,
            conventions=view.conventions * count,
            kin=tuple(names) if count > 1 else (),
        )
