"""What the options name: a model, its loss and its batch, of people's own or of ours, and streams in a file."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, answer_of
from .device import pick_device, pick_dtype

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..models import Adapter, Batch
    from ..models.declaration import Declaration
    from ..models.loading import Loaded
    from ..ranks import Place
    from ..witness.witness import LossFunction

__all__ = ["declared_streams", "load_own_batch", "named_loss", "named_model", "names_function", "own_adapter"]


def names_function(model: str | None) -> bool:
    """Whether ``--model`` names a function of a file, and no checkpoint."""
    return model is not None and ".py:" in model


def named_model(args: argparse.Namespace, place: Place | None = None) -> Loaded:
    """The model of ``--model``, ``--weights``, ``--device``, ``--dtype`` and ``--seed``; on the device of one rank.

    Raises:
        UsageError: no such checkpoint or function, what that returns is no module, or ``--weights`` of none.
    """
    from ..models.loading import load_model

    device, dtype = pick_device(args.device, place), pick_dtype(args.dtype)
    weights = getattr(args, "weights", None)
    if weights is not None and args.model is None:
        raise UsageError("--weights none is about a --model: name a folder that holds its config.json")
    load = _own_model if names_function(args.model) else load_model
    return load(args.model, device=device, dtype=dtype, seed=args.seed, weights=weights)


def _own_model(spec: str, *, device: torch.device, dtype: torch.dtype | None, seed: int, weights: str | None) -> Loaded:
    """The model that a function without arguments returns; with ``weights="none"`` a small one of its configuration."""
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
        UsageError: a file that cannot be read, ``--head`` beside it, or no batch that they lie in.
    """
    if args.streams is None:
        return None
    from ..models.streams_file import load_streams

    if args.head:
        raise UsageError("--streams names the heads: leave --head out")
    if args.batch is None:
        raise UsageError("--streams declares what lies in a batch of your own: name it with --batch FILE.py:FUNC")
    return load_streams(args.streams)


def named_loss(args: argparse.Namespace) -> LossFunction | None:
    """The function of ``--loss``; None for the engine's own.

    Raises:
        UsageError: no such function, or none is named for a model of one's own, or for declared streams.
    """
    from ..witness.loss_file import load_loss

    if args.loss is not None:
        return load_loss(args.loss)
    if args.streams is not None or names_function(args.model):
        raise UsageError("a model of your own has a loss of its own: name it with --loss FILE.py:FUNC")
    return None


def own_adapter(
    args: argparse.Namespace, model: nn.Module, loss: LossFunction | None, streams: Sequence[Declaration] | None
) -> tuple[Adapter, Batch]:
    """The batch of ``--batch``, and the adapter of a model that is given it.

    Raises:
        UsageError: no adapter knows the model, or no such batch.
        CannotRunError: logits that cannot fit into memory.
    """
    from ..batches.batch_source import check_logits
    from ..checks.check import adapter_of

    batch = load_own_batch(args.batch, model)
    adapter = adapter_of(model, batch, loss or (lambda *_: None), args.head, streams)
    check_logits(adapter, model, batch)
    return adapter, batch


def _called(spec: str, option: str, example: str, *arguments: Any) -> Any:
    from ..witness.loss_file import load_function

    function = load_function(spec, option, example)
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        takes = "FUNC(model)" if arguments else "FUNC()"
        raise UsageError(f"{option} {spec}: must be callable as {takes}: {error}") from error
    return answer_of(f"{option} {spec}", function, *arguments)
