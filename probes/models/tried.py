"""Whether a body made small is small, and runs: held against the whole one where tensors have no storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .reading import is_encoder_decoder

__all__ = ["checked_size", "raised_by", "runs_without_storage"]

#: Parameters of a model that is small, at 4 bytes each.
LARGEST = 400_000_000
#: Rows of the forward that a small body has to survive, and the first of its ids.
ROWS, FIRST_ID = 12, 5


def checked_size(build: Callable[[Any], nn.Module], config: Any) -> nn.Module | None:
    """The model without storage, its parameters counted; None where it reads a value while it is built.

    Raises:
        ValueError: it has too many.
    """
    try:
        with torch.device("meta"):
            model = build(config)
    except NotImplementedError:
        return None
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters are left, {LARGEST:,} would be small")
    return model


def runs_without_storage(build: Callable[[Any], nn.Module], config: Any) -> bool:
    """Whether the model of a configuration takes a few ids, where nothing is stored however large it is."""
    try:
        with torch.device("meta"):
            return raised_by(build(config)) is None
    except Exception:  # noqa: BLE001 - whatever it is, it does not run
        return False


def raised_by(model: Any) -> Exception | None:
    """What a forward of a few ids raises: sizes that do not fit together show there alone.

    A module of one's own is given them alone; a class whose main input is another is not tried.
    """
    main = getattr(model, "main_input_name", None)
    if main not in (None, "input_ids"):
        return None
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), torch.device(device):
            ids = torch.arange(FIRST_ID, FIRST_ID + ROWS)[None]
            if main is None:
                model(ids)
            else:
                decoder = {"decoder_input_ids": ids} if is_encoder_decoder(model) else {}
                model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder)
    except Exception as error:  # noqa: BLE001 - whatever it is, another body is tried
        return error
    return None
