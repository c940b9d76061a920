"""A model of a configuration alone: its own class, a body as small as that accepts, random weights.

What a loss trains depends on neither weights nor depth. What does depend on them is said: see ``Small.notes``.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Mapping, MutableMapping
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CannotRunError, UsageError, out_of_memory
from . import higgs, higgs_v2
from .checkpoint import class_of
from .proven import read_json
from .refused import culprits, refusal, said_once
from .shrink import Shrunk, shrink
from .tried import checked_size, raised_by, runs_without_storage

__all__ = ["Small", "small_like", "small_model", "smallest"]

#: What is left out of a body, tried in this order: all of it where the class accepts that.
ATTEMPTS: tuple[Mapping[str, Any], ...] = (
    *({}, {"heads": 4}, {"alike": 2}, {"flat": False}),
    *({"apart": True}, {"narrow": False}),
)
#: Those that are tried only where no body was made before.
LAST = {"apart", "narrow"}
#: Entries of a configuration that are about the weights of a checkpoint.
OF_WEIGHTS = ("quantization_config",)
#: Where the class of a configuration that names none is looked for.
MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
)
#: What a model without its weights cannot show, and what it can.
UNSAID = (
    "without its weights nothing is said of decoding with them, of overflow in its layers and logits, of what dtype "
    "they need, or of memory; its vocabulary, special ids, output heads, codebooks, tying, caps and masks are its own"
)
#: What torch says of a tensor without storage that is read or moved.
STORED = "meta tensor"
#: Letters of what a class raises, and how many of the sizes that stayed are named beside it.
LONGEST, MOST_SIZES = 300, 12


@dataclass(frozen=True)
class Small:
    """A small model, what it was made of, and what was made smaller: before and after, by dotted name.

    ``unknown`` is its kind, where this transformers has the class of that name alone; ``named`` the class that its
    configuration names, where that is another.
    """

    model: nn.Module
    name: str
    changed: Mapping[str, tuple[Any, Any]]
    unknown: str = ""
    named: str = ""

    @property
    def notes(self) -> list[str]:
        """What is to be said of it in a report."""
        reduced = _reduced(self.changed)
        notes = [f"--weights none: {self.name} of its configuration alone, with random weights; {reduced}", UNSAID]
        if self.unknown:
            notes.append(f"a model_type {self.unknown!r} is not known: it is taken for transformers' own {self.name}")
        if self.named:
            told = f"which is not what is judged: {self.name} of the same configuration"
            notes.append(f"architectures names {self.named}, {told}")
        return notes


def small_model(config: Any, *, model_class: type[nn.Module] | None = None, seed: int = 0) -> nn.Module:
    """A model as a configuration describes it, with a small body and random weights, in train mode.

    Args:
        config: a configuration of transformers, the mapping of its file, or the folder that holds config.json. Of a
            module of your own: what its class takes as its one argument, a dataclass, a mapping or an object with
            its sizes as attributes.
        model_class: the class to make; None for the one that the configuration names.
        seed: of the weights.

    Raises:
        UsageError: no such configuration, or its class accepts no small body.
        CannotRunError: a package that it needs cannot be imported here.
    """
    return smallest(config, model_class=model_class, seed=seed).model


def smallest(config: Any, *, model_class: type[nn.Module] | None = None, seed: int = 0) -> Small:
    """The same, and what was made smaller. What transformers logs is said once, and not beside a refusal."""
    with said_once():
        return _smallest(config, model_class, seed)


def _smallest(config: Any, model_class: type[nn.Module] | None, seed: int) -> Small:
    given, unknown = (config, "") if _is_own(model_class) else _configuration(config)
    values = {key: value for key, value in _values(given).items() if key not in OF_WEIGHTS}
    build = _builder(given, model_class)
    whole_runs = cache(lambda: runs_without_storage(build, given))
    first: tuple[Exception, Shrunk] | None = None
    unproven: Small | None = None
    tried: list[Any] = []
    for attempt in ATTEMPTS:
        reduced = shrink(values, **attempt)
        if reduced.config in tried or (unproven is not None and LAST & attempt.keys()):
            continue
        tried.append(reduced.config)
        try:
            small = _of_values(given, reduced.config)
            model, runs = _made(build, small, seed, whole_runs if _is_own(model_class) else None)
        except ImportError as error:
            raise CannotRunError(
                f"{_name(given, model_class)} cannot be made here ({_line(error)}): install what it needs"
            ) from error
        except Exception as error:  # a class raises what it likes of a small configuration: the next is tried
            if out_of_memory(error):
                raise
            first = first or (error, reduced)
            continue
        name = type(model).__name__
        made = Small(model, name, reduced.changed, unknown, _other(name, given) if model_class is None else "")
        if runs:
            return made
        unproven = unproven or made  # its inputs may be others than ours
    if unproven is not None:
        return unproven
    assert first is not None
    name, (error, reduced) = build.__name__ if isinstance(build, type) else _name(given, model_class), first
    if (refused := refusal(build, given)) is not None:
        mend = "let the class take it as its one argument" if _is_own(model_class) else "mend that"
        raise UsageError(
            f"{name} cannot be made of its configuration, small or whole ({type(refused).__name__}: {_line(refused)}"
            f"{culprits(values, str(refused))}): {mend}, or give the model with --model FILE.py:FUNC, "
            "without --weights none"
        ) from refused
    sizes = f"; {_reduced(reduced.changed)}; {_left(reduced)}" if _is_own(model_class) else ""
    raise UsageError(
        f"{name} accepts no small body ({_line(error)}{sizes}): write a small configuration of "
        "it and give the model with --model FILE.py:FUNC, without --weights none"
    ) from error


def small_like(make: Callable[[], Any], *, seed: int = 0) -> Small:
    """A small model of the class and configuration of what a function of the user's makes, without its weights.

    Args:
        make: makes the whole model; it is run where tensors have no storage.
        seed: of the weights.

    Raises:
        UsageError: what it returns has no configuration to make it by, or it reads or moves its weights.
    """
    try:
        with torch.device("meta"):
            whole = make()
    except Exception as error:
        if STORED not in str(error):
            raise
        raise UsageError(
            "--weights none calls what makes the model where tensors have no storage: let it do no more than make it "
            f"({_line(error)})"
        ) from error
    if not isinstance(whole, nn.Module):
        raise UsageError(f"--weights none: what makes the model returned {type(whole).__name__}, and no torch module")
    config = getattr(whole, "config", getattr(whole, "cfg", None))
    if not _has_values(config):
        raise UsageError(
            f"--weights none: {type(whole).__name__} has no configuration to be made small by: let it keep its "
            "configuration (a PretrainedConfig, a dataclass, a mapping, or an object with its sizes as attributes) as "
            ".config or .cfg, and take that as its one argument"
        )
    return smallest(config, model_class=type(whole), seed=seed)


# -- configurations -----------------------------------------------------------------------------------


def _configuration(config: Any) -> tuple[Any, str]:
    """The configuration as an object of its class, and its kind where no more than its class is known."""
    if isinstance(config, (str, Path)):
        path = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
        if not path.is_file():
            raise UsageError(f"{config}: no configuration there; name the folder that holds config.json")
        config = read_json(path)
    if not isinstance(config, Mapping):
        return config, ""
    kind = config.get("model_type")
    if kind == "higgs_audio":
        return higgs.require().HiggsAudioConfig.from_dict(dict(config)), ""
    import transformers

    if kind in transformers.CONFIG_MAPPING:
        return _read(transformers.CONFIG_MAPPING[kind], dict(config)), ""
    for name in config.get("architectures") or ():  # code of its own, under the name of a class that it was made from
        own = getattr(getattr(transformers, name, None), "config_class", None)
        if own is not None:
            return _read(own, {**config, "model_type": own.model_type}), str(kind)
    raise UsageError(
        f"a configuration of model_type {kind!r}: transformers {transformers.__version__} has no such model; give "
        "one of your own with --model FILE.py:FUNC"
    )


def _is_own(model_class: type[nn.Module] | None) -> bool:
    """Whether a class is the user's: a mapping is then its configuration as it is, and not one of transformers."""
    return model_class is not None and getattr(model_class, "config_class", None) is None


def _has_values(config: Any) -> bool:
    """Whether it is a configuration of any kind; a class, a function or a module is none."""
    return isinstance(config, Mapping) or (hasattr(config, "__dict__") and not callable(config))


def _read(kind: Any, config: dict[str, Any]) -> Any:
    """A configuration of a class of transformers, which checks its values."""
    try:
        return kind.from_dict(config)
    except Exception as error:
        raise UsageError(f"no {kind.__name__} can be made of the configuration: {_line(error)}") from error


def _values(config: Any) -> dict[str, Any]:
    """Its entries, those of its parts inside it."""
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "to_dict"):
        return config.to_dict()
    if is_dataclass(config):
        return asdict(config)  # type: ignore[arg-type]
    if not _has_values(config):
        raise UsageError(f"{config!r} is no configuration: pass one of transformers, a dataclass or a dict")
    return dict(vars(config))


def _of_values(config: Any, values: dict[str, Any]) -> Any:
    """A configuration of the same class with those entries."""
    if not isinstance(config, Mapping):  # which may raise what it likes of an attribute that it has not
        if hasattr(config, "to_dict"):
            return type(config).from_dict(deepcopy(values))
        if is_dataclass(config):
            return replace(config, **values)  # type: ignore[type-var]
    made = copy(config)  # a mapping may be read by attributes too
    (made if isinstance(made, MutableMapping) else vars(made)).update(deepcopy(values))
    return made


# -- models -------------------------------------------------------------------------------------------


def _builder(config: Any, model_class: type[nn.Module] | None) -> Callable[[Any], nn.Module]:
    if model_class is not None:
        return model_class
    kind = getattr(config, "model_type", None)
    if kind == "higgs_audio":
        return lambda small: higgs.small_model(config=small)
    if kind == "higgs_audio_v2":
        return lambda small: higgs_v2.small_model(config=small)
    transformers = importlib.import_module("transformers")
    found = class_of(transformers, config)
    if found is not transformers.AutoModelForCausalLM:
        if found.forward is nn.Module.forward:
            raise UsageError(f"{found.__name__} has no forward: name the part that is trained, with its configuration")
        return found
    for name in MAPPINGS:  # it names no class: the one of its kind that has a head over ids
        if type(config) in getattr(transformers, name, {}):
            return getattr(transformers, name)[type(config)]
    raise UsageError(f"a {type(config).__name__} names no class with a head over ids: name it under architectures")


def _made(
    build: Callable[[Any], nn.Module], config: Any, seed: int, whole_runs: Callable[[], bool] | None
) -> tuple[nn.Module, bool]:
    """A small model, and whether a forward of it ran.

    One of one's own runs where it has no storage: there the whole one (``whole_runs``) may be asked the same.
    """
    skeleton = checked_size(build, config)
    fault = None if skeleton is None or whole_runs is None else raised_by(skeleton)
    if fault is not None and whole_runs is not None and whole_runs():
        raise fault
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config).train()
    ran = skeleton is not None and whole_runs is not None and fault is None
    return model, ran or raised_by(model) is None


# -- words --------------------------------------------------------------------------------------------


def _name(config: Any, model_class: type[nn.Module] | None) -> str:
    if model_class is not None:
        return model_class.__name__  # whose configuration may be read in ways of its own
    return (_named(config) or [type(config).__name__])[0]


def _named(config: Any) -> list[str]:
    named = getattr(config, "architectures", None) or ()
    return [named] if isinstance(named, str) else [str(one) for one in named]


def _other(name: str, config: Any) -> str:
    """The class that a configuration names, where another is made of it."""
    names = _named(config)
    return names[0] if names and name.lower() not in [one.lower() for one in names] else ""


def _reduced(changed: Mapping[str, tuple[Any, Any]]) -> str:
    sizes = [f"{name} {_told(old)} -> {_told(new)}" for name, (old, new) in changed.items()]
    return f"made smaller: {', '.join(sizes)}" if sizes else "nothing was made smaller"


def _left(reduced: Shrunk) -> str:
    """The whole numbers that stayed: a size whose name is not known is one of them."""
    left = [f"{name} {size}" for name, size in reduced.config.items() if name not in reduced.changed and _is_size(size)]
    more = ["..."] if len(left) > MOST_SIZES else []
    return f"left as they are: {', '.join([*left[:MOST_SIZES], *more])}" if left else "no size was left as it is"


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 1


def _told(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, (list, dict)) else str(value)


def _line(error: Exception) -> str:
    return textwrap.shorten(str(error), LONGEST, placeholder=" ...") or type(error).__name__
