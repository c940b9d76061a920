"""A checkpoint folder, proven before any library opens it: safetensors alone, inside it, of the sizes it claims.

Nothing here unpickles, imports or builds anything: configurations are read as JSON, tensors by their headers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..host.files import check_regular

__all__ = ["prove_checkpoint", "read_json"]

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
#: Files that are unpickled by some library, wherever they lie in a checkpoint.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
#: A header is a table of names: the format allows no more.
LONGEST_HEADER = 100_000_000
#: No configuration is longer.
LONGEST_JSON = 50_000_000
#: What a configuration calls the number of its layers, or of its experts: each needs tensors, or a share of one.
REPEATED = ("layers", "layer", "blocks", "experts", "depth")
#: What it calls the width of a matrix: some tensor is as wide, or a part of it.
WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "d_model", "n_embd", "d_ff", "ffn_dim", "hidden_dim")
#: How far a claim may lie beyond what the tensors show: padding, groups that share their weights, a new head.
LEEWAY = 16
FEWEST_LAYERS, SMALLEST_WIDTH = 512, 65_536


def prove_checkpoint(folder: Path) -> None:
    """Refuse a folder that would have anything but its own safetensors read, or that claims sizes they do not bear out.

    Raises:
        UsageError: which file, and what is wrong with it.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UsageError(f"{folder}/config.json: is no JSON object")
    _prove_names(folder, config)
    if (folder / "adapter_config.json").exists():
        _prove_adapter(folder)
    shapes: dict[str, list[int]] = {}
    for path in _weights(folder):
        shapes |= _header(path)
    if shapes:
        _prove_sizes(folder, config, shapes)


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UsageError: no regular file, too long, too deep, not UTF-8, or no JSON.
    """
    check_regular(path)
    if path.stat().st_size > LONGEST_JSON:
        raise UsageError(f"{path}: {path.stat().st_size:,} bytes are no configuration")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise UsageError(f"{path}: is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON ({error})") from error


def _inside(folder: Path, name: Any, said_by: str) -> Path:
    """The file of that name in the folder itself.

    A link may lead to the store beside it in which hub caches keep their files, and nowhere else.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise UsageError(f"{folder}/{said_by}: names {str(name)[:200]!r}, which is no file name of this folder")
    path = folder / name
    check_regular(path)
    home = folder.resolve()
    cache = home.parents[1] if home.parent.name == "snapshots" and len(home.parents) > 1 else home
    if not path.resolve().is_relative_to(home) and not path.resolve().is_relative_to(cache / "blobs"):
        raise UsageError(f"{path}: is a link that leads out of the folder; copy the file itself")
    return path


def _weights(folder: Path) -> Iterator[Path]:
    """Every safetensors file that a loader would open."""
    if (folder / SINGLE).exists():
        yield _inside(folder, SINGLE, SINGLE)
        return
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        why = f"; {pickled[0]} is a pickle, which may run any code: save it with save_pretrained" if pickled else ""
        raise UsageError(f"{folder}: has no {SINGLE}{why}; to check its configuration alone: --weights none")
    index = read_json(_inside(folder, INDEX, INDEX))
    names = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(names, Mapping) or not names:
        raise UsageError(f"{folder}/{INDEX}: has no weight_map")
    for name in sorted({str(name) for name in names.values()}):
        path = _inside(folder, name, INDEX)
        if path.suffix != ".safetensors":
            raise UsageError(f"{folder}/{INDEX}: names {name!r}, which is no safetensors file")
        yield path


def _header(path: Path) -> dict[str, list[int]]:
    """Shapes by name, from the header alone, each held to the bytes that are there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, LONGEST_HEADER):
            raise UsageError(f"{path}: its safetensors are damaged (a header of {length:,} bytes); copy it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        shapes = {name: [int(side) for side in entry["shape"]] for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: its safetensors are damaged (no header that can be read); copy it again") from error
    if any(not isinstance(end, int) or not 0 <= end <= size - 8 - length for end in ends):
        raise UsageError(f"{path}: its safetensors are damaged (shorter than its header says); copy it again")
    return shapes


def _prove_names(folder: Path, config: Mapping[str, Any]) -> None:
    named = config.get("architectures")
    if named is None:
        return
    if not isinstance(named, list) or not all(isinstance(name, str) and name.isidentifier() for name in named):
        raise UsageError(f"{folder}/config.json: architectures is {str(named)[:200]}, not a list of class names")


def _prove_adapter(folder: Path) -> None:
    """An adapter beside a model is loaded with it: safetensors alone, on a base that is this folder or a hub's name."""
    adapter = read_json(_inside(folder, "adapter_config.json", "adapter_config.json"))
    if not (folder / "adapter_model.safetensors").exists():
        raise UsageError(f"{folder}: its adapter has no adapter_model.safetensors; save it again with save_pretrained")
    _header(_inside(folder, "adapter_model.safetensors", "adapter_config.json"))
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, Mapping) else None
    if isinstance(base, str) and Path(base).is_dir() and Path(base).resolve() != folder.resolve():
        prove_checkpoint(Path(base))


def _prove_sizes(folder: Path, config: Any, shapes: Mapping[str, list[int]]) -> None:
    """Layers need tensors, and widths tensors that are as wide: what no tensor bears out is never built."""
    layers = max(FEWEST_LAYERS, len(shapes), *(shape[0] for shape in shapes.values() if len(shape) > 2), 0)
    width = max(SMALLEST_WIDTH, LEEWAY * max((side for shape in shapes.values() for side in shape), default=0))
    for name, value in _numbers(config):
        key = name.rpartition(".")[2]
        if key.endswith(REPEATED) and value > layers:
            raise UsageError(
                f"{folder}/config.json: {name} is {value:,}, and the checkpoint holds {len(shapes):,} tensors"
            )
        if not key.endswith(WIDTHS):
            continue
        if value <= 0:
            raise UsageError(f"{folder}/config.json: {name} is {value}, which is no size")
        if value > width:
            largest = max((shape for shape in shapes.values()), key=lambda shape: max(shape, default=0))
            raise UsageError(f"{folder}/config.json: {name} is {value:,}, and no tensor is wider than {largest}")


def _numbers(config: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every whole number of a configuration by its dotted name, those of the configurations inside it too."""
    if not isinstance(config, Mapping) or depth > 8:
        return
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield name, value
        else:
            yield from _numbers(value, f"{name}.", depth + 1)
