"""The environment a record was made in: versions and devices."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .origin import package_of, told_origin
from .walk import first_parameter

if TYPE_CHECKING:
    from torch import nn

__all__ = ["environment", "environment_of", "versions"]

PACKAGES = (
    "loss-alignment",
    "torch",
    "transformers",
    "peft",
    "boson-multimodal",
    "tokenizers",
    "hypothesis",
    "rich",
)


def versions() -> dict[str, str]:
    """Installed version per package; empty where it is not installed."""
    return {package: _version(package) for package in PACKAGES}


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def environment_of(model: nn.Module, name: str, seed: int, package: str = "") -> dict[str, Any]:
    """The environment of a run on ``model``, which is on its device and in its dtype.

    ``package`` is that of the model's code, where wrappers of other packages stand around it.
    """
    param = first_parameter(model)
    device = "cpu" if param is None else str(param.device)
    dtype = "float32" if param is None else str(param.dtype).removeprefix("torch.")
    return environment(model=name, device=device, dtype=dtype, seed=seed, package=package or package_of(model))


def environment(*, model: str, device: str, dtype: str, seed: int, package: str) -> dict[str, Any]:
    """The report's ``environment``."""
    installed = versions()
    return {
        "device": device,
        "dtype": dtype,
        "torch": installed["torch"],
        "transformers": installed["transformers"],
        "peft": installed["peft"],
        "boson-multimodal": installed["boson-multimodal"],
        "loss-alignment": installed["loss-alignment"],
        "python": platform.python_version(),
        "model": model,
        "package": package,
        "package_from": told_origin(package),
        "seed": seed,
    }
