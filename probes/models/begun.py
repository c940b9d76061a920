"""Ids of a decoder: those that are given and do not begin as the model's do, and those that are made of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding, Stream
from alignment.findings import LABELS, Example, finding

from .token_ids import start_id

__all__ = ["begun_otherwise", "made_of_labels"]

#: Model types whose decoders begin with a language or with what was said before, by right.
OTHERWISE = ("mbart", "plbart", "m2m_100", "whisper", "seamless", "fsmt", "moonshine", "canary", "cohere")
FIX = (
    "Let the model shift the labels itself, or begin `decoder_input_ids` with `decoder_start_token_id`: "
    "`[start, *y[:-1]]`."
)


def begun_otherwise(model: Any, batch: Mapping[str, Any], stream: Stream) -> tuple[Finding, ...]:
    """LA201, a warning: the first target is never trained where decoder ids begin with it.

    Args:
        model: an encoder-decoder model.
        batch: as it is given; only its own ``decoder_input_ids`` are judged.
        stream: the decoder's side.
    """
    given, start = batch.get("decoder_input_ids"), start_id(model)
    kind = str(getattr(model.config, "model_type", ""))
    if not isinstance(given, Tensor) or given.dim() != 2 or start is None or kind.startswith(OTHERWISE):
        return ()
    rows = [row for row in (stream.row == 0).nonzero().reshape(-1).tolist() if int(stream.ids[row]) != start]
    if not rows:
        return ()
    message = (
        f"{stream.name}: the decoder_input_ids of {len(rows)} samples begin with another than token {start}, which "
        "generation begins with: what they begin with is never a target, and the first step of generation never trained"
    )
    examples = tuple(
        Example(stream.name, int(stream.sample[row]), 0, IGNORE_INDEX, int(stream.ids[row]), -1) for row in rows[:4]
    )
    told = finding(
        "LA201", stream.name, message, count=len(rows), fix=FIX, severity="warning", basis=LABELS, examples=examples
    )
    return (told,)


def made_of_labels(stream: Stream, labels: Tensor, pads: tuple[int, ...]) -> Stream:
    """The stream of decoder ids that a model has made of (B, T) labels: padding is what stands behind the last label.

    What stands in the place of a label that is masked is an id of padding, and no token that somebody says. Where
    padding is the end token, the first behind the text is its end.
    """
    labelled, padded = labels != IGNORE_INDEX, _is(labels, pads)
    first = torch.ones_like(padded)
    first[:, 1:] = ~padded[:, :-1]
    real = labelled & (~padded | (first & _is(labels, stream.end_ids)))
    goes_on = real.flip(1).long().cumsum(1).flip(1) > 0
    said = {int(pad) for pad in pads if bool(((labels == pad) & goes_on).any())}
    read = goes_on.clone()  # the row that has read the last label stands before nothing, and has read a token
    read[:, 1:] |= goes_on[:, :-1]
    sample = stream.sample.masked_fill(~read.reshape(-1).to(stream.sample.device), -1)
    known = tuple(pad for pad in pads if pad not in said or pad in stream.end_ids)
    return replace(stream, segment=sample, pad_ids=known)


def _is(values: Tensor, ids: tuple[int, ...]) -> Tensor:
    return torch.isin(values, torch.tensor(ids, dtype=values.dtype, device=values.device))
