"""The modules of a model: which owns the output head, what feeds it, what wraps it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError
from ..host.walk import config_of, descends, modules_of, unchanged

__all__ = [
    "HOOKS",
    "embedding_rows",
    "feeder",
    "head_by_size",
    "is_linear_alone",
    "is_masked_lm",
    "is_pretrained",
    "module_at",
    "output_embeddings",
    "peft_model",
    "positions_hint",
    "pretrained_models",
    "routes_by_capacity",
    "rows_beside",
    "task_type_hint",
    "unwrapped",
    "virtual_tokens",
    "vocabulary_of",
    "widest_layers",
]

#: Wrappers that hold the model they wrap under one attribute, by class name.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "_FabricModule": "_forward_module",
}

#: What transformers' models descend from.
PRETRAINED = ("PreTrainedModel", "transformers.modeling_utils")
#: Vocabularies are padded to multiples of this.
PADDED_TO = 64
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_linear_alone(module: nn.Module) -> bool:
    """Whether a module is a linear layer and nothing else: no subclass, hook, patch or sharded weight."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.shape == (module.out_features, module.in_features)
        and "forward" not in vars(module)
        and not any(getattr(module, name) for name in HOOKS)
        and not any(getattr(nn.modules.module, f"_global{name}", None) for name in HOOKS)
    )


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module is a transformers model, told by name so that transformers need not be imported."""
    return descends(type(module), *PRETRAINED)


def is_masked_lm(model: Any) -> bool:
    """Whether a transformers model is trained on the tokens that stand where its input was masked."""
    return any(base.__name__.endswith("ForMaskedLM") for base in type(model).__mro__)


def pretrained_models(model: nn.Module) -> Iterator[Any]:
    """The transformers models in a model, outermost first: most often the model itself."""
    return (module for module in modules_of(model) if descends(type(module), *PRETRAINED))


def output_embeddings(model: Any) -> Any:
    """The output head that a transformers model names; None if it names none.

    A model that names its tied embedding instead (FSMT) means the linear layer that shares its weight.
    """
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if isinstance(head, nn.Embedding):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        alike = [layer for layer in layers if layer.weight.shape == head.weight.shape]
        return next((layer for layer in alike if layer.weight is head.weight), alike[0] if alike else None)
    return head


def unwrapped(model: nn.Module) -> nn.Module:
    """A model without the wrappers around it: PEFT, DDP, FSDP, torch.compile, Fabric."""
    while True:
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            model = model.get_base_model()
            continue
        held = WRAPPERS.get(type(model).__name__)
        below = None if held is None else getattr(model, held, None)
        if not isinstance(below, nn.Module):
            return model
        model = below


def peft_model(model: nn.Module) -> Any:
    """The PEFT model in a model, whatever wraps it; None if there is none."""
    return next((one for one in modules_of(model) if _unwraps(type(one)) and hasattr(one, "peft_config")), None)


@lru_cache(maxsize=4096)
def _unwraps(kind: type) -> bool:
    """Whether modules of a class give what they wrap: asked of every module, and of few classes."""
    return hasattr(kind, "get_base_model")


def virtual_tokens(model: nn.Module) -> str:
    """The kind of PEFT that puts tokens of its own before the prompt; empty without such."""
    configs = getattr(peft_model(model), "peft_config", {}).values()
    return next((type(config).__name__ for config in configs if getattr(config, "is_prompt_learning", False)), "")


def routes_by_capacity(model: nn.Module) -> str:
    """Why a token's logits depend on which others share its batch; empty where no expert's capacity is bounded."""
    for path, module in model.named_modules():
        capacity = getattr(module, "expert_capacity", None)
        if isinstance(capacity, int):
            return f"{path} routes tokens by capacity (an expert takes {capacity}): who else is there decides"
    return ""


def task_type_hint(model: nn.Module, error: Exception) -> str:
    """What to do where a task type of PEFT hands the model keywords that it does not know; empty elsewhere."""
    outer = peft_model(model)
    configs = () if outer is None else outer.peft_config.values()
    tasks = {str(getattr(config.task_type, "value", config.task_type)) for config in configs if config.task_type}
    if not tasks or not isinstance(error, TypeError) or "unexpected keyword argument" not in str(error):
        return ""
    return (
        f"; PEFT's task_type {', '.join(sorted(tasks))} hands the model keywords of its own: wrap it without a "
        "task_type, or call model.base_model(**batch)"
    )


def positions_hint(model: nn.Module, batch: Any, error: Exception) -> str:
    """Why an index may be out of range: more positions than the model has been made for; empty elsewhere."""
    config = config_of(unwrapped(model))
    most = getattr(config, "max_position_embeddings", None)
    ids = batch.get("input_ids")  # a waveform or codes may be longer
    length = ids.shape[-1] if isinstance(ids, Tensor) and ids.dim() == 2 else 0
    if not isinstance(error, IndexError) or not isinstance(most, int) or length <= most:
        return ""
    return f"; the batch has {length} positions, the model {most}: shorten it (--length of the barcoded batch)"


def feeder(inner: nn.Module, head: nn.Module) -> nn.Module | None:
    """The module whose output ``head`` reads: the base model of the innermost model that holds the head.

    Of a head that stands outside of every model, that of the outermost: something of the user's own lies between.
    """
    with unchanged():
        every = list(pretrained_models(inner))
        owners = [owner for owner in every if _holds(owner, head)] or every[:1]
        for owner in reversed(owners):
            for body in _bodies(owner):
                if isinstance(body, nn.Module) and body is not owner and not _holds(body, head):
                    return body
    return None


def _bodies(owner: Any) -> Iterator[Any]:
    if owner.base_model_prefix:
        yield getattr(owner, owner.base_model_prefix, None)
    yield owner.get_decoder() if hasattr(owner, "get_decoder") else None
    for name in ("model", "transformer", "decoder", "backbone"):
        yield getattr(owner, name, None)


def _holds(model: nn.Module, module: nn.Module) -> bool:
    return module in modules_of(model)


def vocabulary_of(head: nn.Module, inner: Any) -> int:
    """The size of a head's vocabulary.

    Raises:
        UsageError: a module that is no head.
    """
    size, weight = getattr(head, "out_features", None), getattr(head, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2 and weight.is_floating_point():  # quantised ones are packed
        size = weight.shape[0]  # wrappers leave the layer's own number behind
    if not isinstance(size, int) and any(True for _ in head.children()):
        size = _width_of_layers(head, getattr(config_of(inner), "vocab_size", None))
    if not isinstance(size, int) or isinstance(head, nn.Embedding):
        raise UsageError(
            f"a {type(head).__name__} is no output head: name the layer that gives the logits with --head "
            f"({widest_layers(inner)})"
        )
    return size


def _width_of_layers(head: nn.Module, told: Any) -> Any:
    """How many scores a head of several layers gives: what the configuration says, unless its last one is padded."""
    widths = [part.weight.shape[0] for part in head.modules() if isinstance(part, nn.Linear)]
    return widths[-1] if widths and (told is None or (told not in widths and widths[-1] > told)) else told


def embedding_rows(inner: Any) -> int | None:
    """How many ids the model can read; None if it does not say."""
    try:
        return getattr(inner.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def head_by_size(model: nn.Module) -> str:
    """The path of the one linear layer that has as many outputs as an embedding has rows; empty if none is the one.

    A layer that shares its weight with an embedding goes first. Vocabularies are padded to multiples of 64, on either
    side (litgpt, nanochat).
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    tied = [path for path, layer in layers.items() if any(layer.weight is table.weight for table in tables)]
    if tied:
        return tied[0]
    rows = {table.num_embeddings for table in tables}
    sizes = rows | {-(-size // PADDED_TO) * PADDED_TO for size in rows}
    alike = [path for path, layer in layers.items() if layer.weight.shape[0] in sizes]
    return alike[0] if len(alike) == 1 else ""


def rows_beside(model: nn.Module, vocab: int) -> int:
    """How many ids a module of the user's own can read: its head's ``vocab`` may be padded where its table is not."""
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    return min((rows for rows in tables if 0 <= vocab - rows < PADDED_TO), default=vocab)


def module_at(model: nn.Module, inner: nn.Module, name: str) -> nn.Module:
    """The module at a dotted path of the model, or of the model below its wrappers.

    Raises:
        UsageError: no such path; names the nearest one that exists.
    """
    for root in (model, inner):
        found = _below(root, name)
        if found is not None:
            return found
    paths = [path for root in (inner, model) for path, _ in root.named_modules(remove_duplicate=False) if path]
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0)
    hint = f"did you mean {near[0]}?" if near else "it has no submodules"
    raise UsageError(f"--head {name}: {type(inner).__name__} has no such module; {hint}")


def _below(root: nn.Module, name: str) -> nn.Module | None:
    """The module at a dotted path below a root; None if there is none."""
    found: nn.Module | None = root
    for part in name.split("."):
        found = None if found is None else found._modules.get(part)  # noqa: SLF001 - get_submodule raises
    return found


def widest_layers(model: nn.Module) -> str:
    """The widest linear layers, likeliest heads first, for a message."""
    wide = [(m.out_features, path) for path, m in model.named_modules() if isinstance(m, nn.Linear) and path]
    paths = [path for _, path in sorted(wide, key=lambda pair: -pair[0])[:3]]
    return f"its widest linear layers are {', '.join(paths)}" if paths else "it has no linear layer"
