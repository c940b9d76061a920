"""Load the model that ``--model`` names, or make the small default one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CannotRunError, UsageError, out_of_memory
from ..host.memory import check_weights
from . import higgs, higgs_v2
from .proven import prove_checkpoint, read_json
from .small import Small, smallest

__all__ = ["Loaded", "load_model", "of_configuration"]


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and what is to be said of it.

    Attributes:
        model: on its device.
        name: what to call it.
        random_init: whether it is our own random one, whose loss must lie near ln V.
        missing: the weights that its checkpoint lacks.
        small: how it was made, where it was made of its configuration alone.
    """

    model: nn.Module
    name: str
    random_init: bool
    missing: tuple[str, ...] = ()
    small: Small | None = None

    @property
    def notes(self) -> list[str]:
        """What is to be said of it in a report."""
        if self.small is not None:
            return self.small.notes
        if not self.missing:
            return []
        weights = "weight" if len(self.missing) == 1 else "weights"
        return [f"the checkpoint lacks {len(self.missing)} {weights} (first {self.missing[0]}): random here"]


def load_model(
    name: str | None, *, device: torch.device, dtype: torch.dtype | None, seed: int, weights: str | None = None
) -> Loaded:
    """A small random Higgs model, or a checkpoint: safetensors only, no remote code.

    With ``weights="none"`` none of the checkpoint's are read, and a small model is made of its configuration.

    Raises:
        UsageError: an unknown name, or a folder that holds no loadable model.
        CannotRunError: its package cannot be imported here.
    """
    if name is None:
        model = _small_model(seed)
        called = f"{type(model).__name__} (small, random weights)"
        return Loaded(model.to(device=device, dtype=dtype or torch.float32), called, random_init=True)
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--model {name}: is a file; name the folder that holds config.json")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(f"--model {name}: the folder has no config.json; name a checkpoint saved by save_pretrained")
    kind = _model_type(name)
    if weights == "none":
        return of_configuration(name, lambda: smallest(_config_file(name), seed=seed), device, dtype)
    return _checkpoint(name, kind, device, dtype)


def _checkpoint(name: str, kind: str, device: torch.device, dtype: torch.dtype | None) -> Loaded:
    """The model of a checkpoint, with its weights."""
    path = Path(name)
    if path.is_dir():
        prove_checkpoint(path)
        check_weights(path, device)
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        if kind == "higgs_audio":
            model, missing = higgs.load(name)
        elif kind == "higgs_audio_v2":
            model, missing = higgs_v2.load(name, dtype)
        else:
            from .causal_lm import load_causal_lm

            model, missing = load_causal_lm(name, dtype)
    except UsageError:
        raise
    except SafetensorError as error:
        raise UsageError(
            f"--model {name}: its safetensors are damaged ({_first_line(error)}); copy them again"
        ) from error
    except Exception as error:  # what a configuration makes its class raise is no fault of ours
        raise _unloadable(name, error) from error
    return Loaded(model.to(device=device, dtype=dtype), name, random_init=False, missing=missing)


def of_configuration(name: str, make: Callable[[], Small], device: torch.device, dtype: torch.dtype | None) -> Loaded:
    """A small model of a configuration.

    Raises:
        UsageError: its class accepts none.
        CannotRunError: its package cannot be imported here.
    """
    try:
        small = make()
    except (UsageError, CannotRunError):
        raise
    except Exception as error:  # whatever its class raises of it
        raise _unloadable(name, error) from error
    called = f"{small.name} of {name} (small, random weights)"
    model = small.model.to(device=device, dtype=dtype or torch.float32)
    return Loaded(model, called, random_init=False, small=small)


def _config_file(name: str) -> Any:
    """The configuration of a folder, or of a name on the hub."""
    if Path(name).is_dir():
        return name
    from transformers import PretrainedConfig

    return PretrainedConfig.get_config_dict(name)[0]


def _small_model(seed: int) -> nn.Module:
    """The released model where it is installed, else transformers' own; they cannot share an environment.

    Raises:
        CannotRunError: neither can be imported here.
    """
    reasons = [family.why_unavailable() for family in (higgs, higgs_v2)]
    if all(reasons):
        raise CannotRunError("; or ".join(map(str, reasons)))
    return (higgs if reasons[0] is None else higgs_v2).small_model(seed=seed)


def _model_type(name: str) -> str:
    """The configuration's ``model_type``, read without running any code of the checkpoint."""
    try:
        if Path(name).is_dir():
            config: Any = read_json(Path(name) / "config.json")
        else:
            from transformers import PretrainedConfig

            config, _ = PretrainedConfig.get_config_dict(name)
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(
            f"unknown --model {name!r}: neither a folder here nor a name on the hub that can be reached "
            f"({_first_line(error)})"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UsageError(f"--model {name}: its config.json names no model_type")
    return config["model_type"]


def _unloadable(name: str, error: Exception) -> UsageError | CannotRunError:
    if isinstance(error, CannotRunError):
        return error
    memory = out_of_memory(error, f"--model {name}")
    return CannotRunError(memory) if memory else UsageError(f"--model {name}: cannot be loaded: {_told(error)}")


def _told(error: Exception) -> str:
    """Its first line, and the second where the first only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()[:2]]
    return " ".join(lines) if lines and lines[0].endswith(":") else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
