"""Models and batches of people's own: functions named on the command line, and streams in a file."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, raised_by

if TYPE_CHECKING:
    import torch

    from ..models import Batch
    from ..models.declaration import Declaration
    from ..models.loading import Loaded

__all__ = ["declared_streams", "load_own_batch", "load_own_model", "names_function"]


def names_function(model: str | None) -> bool:
    """Whether ``--model`` names a function of a file, and no checkpoint."""
    return model is not None and ".py:" in model


def load_own_model(
    spec: str, *, device: torch.device, dtype: torch.dtype | None, seed: int, weights: str | None = None
) -> Loaded:
    """The model that a function without arguments returns; with ``weights="none"`` a small one of its configuration.

    Raises:
        UsageError: no such function, or what it returns is no module.
    """
    import torch
    from torch import nn

    from ..models.loading import Loaded, of_configuration
    from ..models.small import small_like

    if weights == "none":
        make = lambda: small_like(lambda: _called(spec, "--model", "model.py:build"), seed=seed)  # noqa: E731
        return of_configuration(spec, make, device, dtype)
    torch.manual_seed(seed)
    model = _called(spec, "--model", "model.py:build")
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {spec} must return a torch module, it returned a {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise UsageError(f"--model {spec} returned a {type(model).__name__} without a parameter")
    return Loaded(model.to(device=device, dtype=dtype), type(model).__name__, random_init=False)


def load_own_batch(spec: str, model: Any) -> Batch:
    """The batch that a function of the model returns, on the model's device.

    Raises:
        UsageError: no such function, or what it returns is no mapping.
    """
    from ..batches.batch_source import to_device

    batch = _called(spec, "--batch", "data.py:batch", model)
    if not isinstance(batch, Mapping):
        raise UsageError(
            f"--batch {spec} must return a mapping of the loss's batch, it returned a {type(batch).__name__}"
        )
    return to_device(dict(batch), next(model.parameters()).device)


def declared_streams(args: argparse.Namespace) -> tuple[Declaration, ...] | None:
    """The streams of ``--streams``; None without.

    Raises:
        UsageError: a file that cannot be read, or ``--head`` beside it.
    """
    if args.streams is None:
        return None
    from ..models.streams_file import load_streams

    if args.head:
        raise UsageError("--streams names the heads: leave --head out")
    return load_streams(args.streams)


def _called(spec: str, option: str, example: str, *arguments: Any) -> Any:
    from ..witness.loss_file import load_function

    function = load_function(spec, option, example)
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        takes = "FUNC(model)" if arguments else "FUNC()"
        raise UsageError(f"{option} {spec}: must be callable as {takes}: {error}") from error
    try:
        return function(*arguments)
    except UsageError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise raised_by(f"{option} {spec}", error) from error
