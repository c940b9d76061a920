"""The Higgs models with 2304 text ids for 128256, and their batches: the reserved ids moved down, all else as it is.

A pass of the small model costs what its text logits cost. What is asked of codebooks, labels and weights shows in a
narrow vocabulary as well; what a wide one does to numbers is asked of the published one.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from probes import barcoded_batch
from probes.models import Batch
from probes.models.higgs import FIRST_SPECIAL

__all__ = ["is_narrow", "narrow_batch", "narrow_config", "narrow_default", "narrow_model", "narrowed", "widened"]

#: The first reserved id, above all codes and all ordinary ids that the batches of the tests have.
FIRST = 2048
MOVED = FIRST_SPECIAL - FIRST


def narrow_config(config: Any) -> Any:
    """The configuration with its vocabulary and reserved ids moved down, those of its text included."""
    for part in (config, getattr(config, "text_config", config)):
        for name, value in list(vars(part).items()):
            if type(value) is int and value >= FIRST_SPECIAL:
                setattr(part, name, value - MOVED)
    return config


def is_narrow(config: Any) -> bool:
    """Whether a configuration is one of these."""
    return getattr(config, "text_config", config).vocab_size == FIRST + 256


def narrowed(batch: Batch) -> Batch:
    """A batch of the published vocabulary with its reserved ids moved down."""
    for key, ids in _text(batch).items():
        assert not bool(((ids >= FIRST) & (ids < FIRST_SPECIAL)).any()), f"{key} holds ids that have no room"
    return {**batch, **{key: ids.where(ids < FIRST, ids - MOVED) for key, ids in _text(batch).items()}}


def widened(batch: Batch) -> Batch:
    """A narrow batch as one of the published vocabulary."""
    return {**batch, **{key: ids.where(ids < FIRST, ids + MOVED) for key, ids in _text(batch).items()}}


def _text(batch: Batch) -> dict[str, Tensor]:
    return {key: batch[key] for key in ("input_ids", "label_ids", "labels") if batch.get(key) is not None}


def narrow_model(family: str = "higgs", *, hidden: int = 64, layers: int = 2, **others: Any) -> Any:
    """A small random instance of a module of ``probes.models``, in train mode; ``others`` as that takes them."""
    module = importlib.import_module(f"probes.models.{family}")
    return module.small_model(config=narrow_config(module.small_config(hidden, layers)), **others)


def narrow_batch(*given: Any, **named: Any) -> Batch:
    """``barcoded_batch`` for the released one of them."""
    return narrowed(barcoded_batch(*given, **named))


def narrow_default(monkeypatch: Any) -> None:
    """The model that a command has where it is given none, and the batches that it makes for it, narrow from now on.

    Data through the processor of transformers is not.
    """
    from probes.batches import batch_source, chatml, chatml_rules
    from probes.fuzzing import fuzz
    from probes.models import higgs, loading

    family = "higgs" if higgs.why_unavailable() is None else "higgs_v2"
    published = importlib.import_module(f"probes.models.{family}").small_config(64, 2)
    collate, through, rules = batch_source.collate_for, chatml.chatml_batch, chatml_rules.label_rule_findings

    def read(path: Any, config: Any, **how: Any) -> Any:
        batch, notes = through(path, published, **how)
        return narrowed(batch), notes

    monkeypatch.setattr(loading, "_small_model", lambda seed: narrow_model(family, seed=seed))
    for maker in (batch_source, fuzz):
        monkeypatch.setattr(maker, "collate_for", lambda *given: narrowed(collate(*given)))
    monkeypatch.setattr(chatml, "chatml_batch", read)
    monkeypatch.setattr(
        chatml_rules, "label_rule_findings", lambda batch, own, _, **how: rules(widened(batch), own, published, **how)
    )
