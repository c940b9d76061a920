"""Where a batch comes from: the barcoded default, or the real data path of ``--data``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignment import Finding

from ..errors import UsageError
from ..host.memory import check_memory
from ..models import Adapter, Batch, HiggsAudioV2Adapter, is_higgs
from ..models.adapter import OtherCheckpointError
from ..models.codebooks import CodebookAdapter
from ..models.reading import is_encoder_decoder
from ..ranks import ALONE, Place
from ..witness.with_roles import Template, template
from .barcoded import FULL_LENGTH, barcoded_samples, hand_labels
from .barcoded_v2 import collate_for
from .codebook_batch import barcoded_codes
from .plain_batch import barcoded_text, vocabulary_size
from .text_file import NO_TOKENIZER, text_batch

__all__ = [
    "Source",
    "barcoded",
    "check_logits",
    "load_batch",
    "template_at",
    "to_device",
    "tokenizer_at",
    "tokenizer_beside",
]

DEFAULT_SIZE = 2
PLAIN_LENGTH = 64
#: What a tokenizer is made of: without any of them a library makes an empty one up.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


#: Said beside what the label rules find in the labels that transformers' own processor makes.
NOT_YOURS = (
    "what the label rules find lies in the labels that transformers' own HiggsAudioV2Processor makes, neither in your "
    "loss nor in your file: make the labels of your trainer from the roles (docs/higgs.md), or check the loss alone, "
    "without --data, or take the released model and its data path: pip install '.[data]' 'transformers>=4.45.1,<4.47' "
    "&& pip install --no-deps boson-multimodal==0.1.1"
)


@dataclass
class Source:
    """A batch on the model's device, what is to be said of it, and what its label rules found."""

    batch: Batch
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tokenizer: Any = None
    template: Template | None = None


def load_batch(adapter: Adapter, model: nn.Module, args: argparse.Namespace, place: Place = ALONE) -> Source:
    """The batch that ``--data``, ``--batch-size``, ``--length``, ``--labels`` and ``--seed`` ask for.

    Every rank of a distributed run has its own: every world-th sample of the file, or a barcode of another seed.

    Raises:
        UsageError: a data file or sizes that cannot be used.
        CannotRunError: the data path's packages are missing, or the batch cannot fit into memory.
        OtherCheckpointError: a data file that was made for another checkpoint.
    """
    device = next(model.parameters()).device
    if isinstance(adapter, CodebookAdapter) and args.data is not None:
        raise UsageError(f"--data holds text or Higgs samples: give {adapter.name} a batch with --batch FILE.py:FUNC")
    if args.data is None:
        source = Source(barcoded(adapter, model, args, args.seed + place.rank))
    else:
        source = (_from_file if is_higgs(adapter) else _through_template)(adapter, model, args, place)
        source.batch = to_device(hand_labels(source.batch, args.labels, key=adapter.label_keys[0]), device)
    try:
        adapter.check_batch(model, source.batch)
    except OtherCheckpointError as error:
        if args.data is not None:
            raise
        problem = error.problem.partition("; ")[0]  # what follows is for who made the batch
        raise UsageError(
            f"our own barcoded batch, which has the ids and codes of the released model, does not fit --model "
            f"{args.model}: {problem}; name a batch that does with --data, or correct the configuration"
        ) from error
    check_logits(adapter, model, source.batch)
    return source


def check_logits(adapter: Adapter, model: nn.Module, batch: Batch) -> None:
    """Refuse a batch whose logits cannot fit into what is free, before a loss makes them.

    Raises:
        CannotRunError: with both figures.
    """
    streams, device = adapter.view(model, batch).streams, next(model.parameters()).device
    check_memory(len(streams[0]), sum(len(stream) * stream.vocab for stream in streams), device)


def barcoded(adapter: Adapter, model: nn.Module, args: argparse.Namespace, seed: int) -> Batch:
    """The barcoded batch of that seed, on the model's device, labels handed as ``--labels`` says.

    Raises:
        UsageError: sizes that cannot hold one.
        CannotRunError: it cannot fit into memory.
    """
    device, size = next(model.parameters()).device, args.batch_size or DEFAULT_SIZE
    if is_higgs(adapter):
        config, length = adapter.inner(model).config, args.length or FULL_LENGTH
        # before a batch of that size is made at all
        check_memory(size * length, size * length * config.get_text_config().vocab_size, device)
        delayed = getattr(config, "use_delay_pattern", True)
        samples = barcoded_samples(size, length=length, seed=seed, use_delay_pattern=delayed)
        batch = collate_for(adapter, model, samples)
        return to_device(hand_labels(batch, args.labels, key=adapter.label_keys[0]), device)
    length = args.length or PLAIN_LENGTH
    if isinstance(adapter, CodebookAdapter):
        scored = sum(adapter.vocabulary(number) for number in range(len(adapter.declared)))
        check_memory(size * length, size * length * scored, device)
        return to_device(barcoded_codes(adapter, model, size, length, seed), device)
    check_memory(size * length, size * length * vocabulary_size(adapter, model), device)
    return to_device(barcoded_text(adapter, model, size, length, seed, args.labels), device)


def _from_file(adapter: Adapter, model: nn.Module, args: argparse.Namespace, place: Place) -> Source:
    """The real data path, its labels held against the roles of the conversations.

    Raises:
        UsageError: options of text models, which this path would not follow.
    """
    for option, given in (("--train-on", args.train_on), ("--tokenizer", args.tokenizer)):
        if given is not None:
            raise UsageError(
                f"{option} is for text models: {adapter.name} has a data path and a tokenizer of its own, and its "
                "labels are held to the roles of its conversations as they are. Leave it out"
            )
    config, how = adapter.inner(model).config, {"batch_size": args.batch_size, "place": place}
    how |= {"tokenizer": tokenizer_at(args.model), "allow_outside": args.allow_outside}
    if isinstance(adapter, HiggsAudioV2Adapter):
        return _through_processor(adapter, args.data, config, how)
    from .chatml import byte_tokenizer, chatml_batch
    from .chatml_file import read_chatml, shard_of
    from .chatml_rules import label_rule_findings

    batch, notes = chatml_batch(args.data, config, **how)
    tokenizer = how["tokenizer"] or byte_tokenizer()
    records = shard_of(read_chatml(args.data, allow_outside=args.allow_outside), args.data, place)
    findings = label_rule_findings(batch, records, config, tokenizer=tokenizer)
    return Source(batch, notes, findings, tokenizer)


def _through_processor(adapter: HiggsAudioV2Adapter, path: str, config: Any, how: dict[str, Any]) -> Source:
    """The same through the processor of transformers."""
    from .byte_tokenizer import byte_tokenizer
    from .chatml_v2 import chatml_batch_v2
    from .chatml_v2_rules import rule_findings_v2

    batch, notes, samples = chatml_batch_v2(path, config, **how)
    tokenizer = how["tokenizer"] or byte_tokenizer(adapter.special_ids)
    found = rule_findings_v2(batch, samples, config, tokenizer)
    return Source(batch, [*notes, *([NOT_YOURS] * bool(found))], found, tokenizer)


def _through_template(adapter: Adapter, model: nn.Module, args: argparse.Namespace, place: Place) -> Source:
    """Conversations of any form through the model's own tokenizer and chat template."""
    inner = adapter.inner(model)
    if is_encoder_decoder(inner):
        raise UsageError(
            f"--data: {adapter.name} reads questions in its encoder: no conversation can be one text for it"
        )
    where = args.tokenizer or args.model
    tokenizer = tokenizer_at(where)
    if tokenizer is None:
        raise UsageError(NO_TOKENIZER.format(where=where or "the model"))
    longest = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    made = text_batch(
        args.data, tokenizer, batch_size=args.batch_size, train_on=args.train_on, longest=longest, place=place
    )
    told = template(tokenizer, args.train_on, made.conversations)
    return Source(made.batch, list(made.notes), tokenizer=tokenizer, template=told)


def tokenizer_at(checkpoint: str | None) -> Any:
    """The checkpoint's own tokenizer; None where it has none."""
    if checkpoint is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError):  # KeyError: a configuration that names no tokenizer of its own
        return None  # a folder with weights alone: the byte-level tokenizer stands in, and a note says so


def tokenizer_beside(path: str | None) -> Any:
    """The tokenizer in a folder, to write tokens with; None where there is none, and for what is no folder."""
    if path is None or not any((Path(path) / name).is_file() for name in TOKENIZERS):
        return None
    return tokenizer_at(path)


def template_at(path: str | None, train_on: str | None) -> Template | None:
    """What the tokenizer in a folder says of batches of one's own; None where nothing was named.

    Raises:
        UsageError: there is none, or it knows no answers though some were declared.
    """
    found = tokenizer_at(path)
    if path is not None and found is None:
        raise UsageError(f"--tokenizer {path}: no tokenizer there; put tokenizer.json and its config into it")
    return template(found, train_on)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on ``device``."""
    moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return moved
