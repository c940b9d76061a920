"""The modules of a model: which owns the output head, what feeds it, what wraps it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError

__all__ = [
    "embedding_rows",
    "feeds",
    "head_rows",
    "is_pretrained",
    "module_at",
    "output_embeddings",
    "unwrapped",
    "widest_layers",
]

#: Wrappers that hold the model they wrap under one attribute, by class name.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def _is_pretrained(module: nn.Module) -> bool:
    """Whether a module is a transformers model, told by name so that transformers need not be imported."""
    return any(
        base.__name__ == "PreTrainedModel" and base.__module__ == "transformers.modeling_utils"
        for base in type(module).__mro__
    )


def _output_embeddings(model: Any) -> Any:
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # a model without a head, or with several
        return None


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
            model = model.get_base_model()
            continue
        below = getattr(model, WRAPPERS.get(type(model).__name__, ""), None)
        if not isinstance(below, nn.Module):
            return model
        model = below


def _holds(model: nn.Module, module: nn.Module) -> bool:
    return any(module is other for other in model.modules())


def _bodies(owner: Any) -> Iterator[Any]:
    prefix = getattr(owner, "base_model_prefix", "")
    yield getattr(owner, prefix, None) if prefix else None
    yield owner.get_decoder() if hasattr(owner, "get_decoder") else None
    for name in ("model", "transformer", "decoder", "backbone"):
        yield getattr(owner, name, None)


def _first_parameter(inner: nn.Module) -> list[str]:
    """The name of a forward's first argument, where ids go in models that follow no convention."""
    names = list(inspect.signature(type(inner).forward).parameters)
    return names[1:2]


def _rows_of_head(module: nn.Module, inner: Any) -> int:
    """The size of a head's vocabulary.

    Raises:
        UsageError: a module that is no head.
    """
    size = getattr(module, "out_features", None)
    weight = getattr(module, "weight", None)
    if not isinstance(size, int) and isinstance(weight, Tensor) and weight.dim() == 2:
        size = weight.shape[0]
    if not isinstance(size, int):
        size = getattr(getattr(inner, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        raise UsageError(f"{type(module).__name__} is no output head: name the last linear layer with --head")
    return size


def _embedding_rows(inner: Any) -> int | None:
    """How many ids the model can read; None if it does not say."""
    try:
        embedding = inner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return getattr(embedding, "num_embeddings", None)


def _module_at(model: nn.Module, inner: nn.Module, name: str) -> nn.Module:
    """The module at a dotted path of the model, or of the model below its wrappers."""
    for root in (model, inner):
        found = dict(root.named_modules()).get(name)
        if found is not None and name:
            return found
    paths = list(dict.fromkeys([path for root in (inner, model) for path, _ in root.named_modules() if path]))
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0) or paths[:1]
    hint = f"did you mean {near[0]}?" if near else "it has no submodules"
    raise UsageError(f"--head {name}: {type(inner).__name__} has no such module; {hint}")


def _head_suggestions(model: nn.Module) -> str:
    """The widest linear layers, likeliest heads first."""
    wide = [(m.out_features, path) for path, m in model.named_modules() if isinstance(m, nn.Linear) and path]
    paths = [path for _, path in sorted(wide, key=lambda pair: -pair[0])[:3]]
    return f"its widest linear layers: {', '.join(paths)}" if paths else "it has no linear layer"
