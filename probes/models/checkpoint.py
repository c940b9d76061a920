"""Load a transformers checkpoint: safetensors only, no remote code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError

__all__ = ["class_of", "from_folder", "load_causal_lm"]

#: Names of classes that say what they are for.
WITH_A_HEAD = re.compile(r"For[A-Z]")


def from_folder(model_class: Any, name: str, **wanted: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """A model in train mode, and the names of its weights that the checkpoint lacks: they are random."""
    model, told = model_class.from_pretrained(name, use_safetensors=True, output_loading_info=True, **wanted)
    return model.train(), tuple(sorted(told["missing_keys"]))


def load_causal_lm(
    name_or_path: str | Path, dtype: torch.dtype | str | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a model by the class that its configuration names, in train mode.

    Any class of transformers works (``LlavaForConditionalGeneration``, ``WhisperForConditionalGeneration``);
    a checkpoint that names none is loaded as ``AutoModelForCausalLM``. Nothing is downloaded where
    ``HF_HUB_OFFLINE`` is set.

    Args:
        name_or_path: a folder, or a name on the hub.
        dtype: of the weights; None keeps the checkpoint's own.

    Returns:
        the model, and the names of its weights that the checkpoint lacks.

    Raises:
        UsageError: an unknown name, a folder without config or safetensors, a model that would need
            remote code, or a class that this transformers does not have.
    """
    import transformers

    name = str(name_or_path)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        model_class = class_of(transformers, config)
        wanted = {_dtype_keyword(transformers): "auto" if dtype is None else dtype}
        return from_folder(model_class, name, config=config, **wanted)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"--model {name}: cannot be loaded ({reason}); name a folder with config.json and safetensors, "
            "or a model of this transformers on the hub"
        ) from error


def class_of(transformers: Any, config: Any) -> Any:
    """The class that a configuration names; causal language modelling for none, or one without a head that has such."""
    bare = transformers.MODEL_MAPPING.get(type(config), None)
    if bare is not None and WITH_A_HEAD.search(bare.__name__):
        bare = None  # what stands for all of a kind may have heads of its own (Llama 4)
    if transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) is None:
        bare = None  # and may be all that there is (CSM)
    named = getattr(config, "architectures", None) or ()
    for architecture in [named] if isinstance(named, str) else named:
        found = _called(transformers, str(architecture))
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            version = transformers.__version__
            raise UsageError(f"{architecture} is not in transformers {version}: install a version that has it")
        if found is not bare:
            return found
    return transformers.AutoModelForCausalLM


def _called(transformers: Any, name: str) -> Any:
    """The class of that name, whichever letters of it are large (``MPTForCausalLM`` is ``MptForCausalLM``)."""
    own = getattr(transformers, name, None)
    if own is not None:
        return own
    return next((getattr(transformers, one) for one in dir(transformers) if one.lower() == name.lower()), None)


def _dtype_keyword(transformers: Any) -> str:
    return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
