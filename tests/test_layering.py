"""What may import what: proven in processes of their own, and on the source."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import alignment

ROOT = Path(alignment.__file__).parents[1]
ENGINE = sorted(f"alignment.{module.name}" for module in pkgutil.iter_modules(alignment.__path__))
ABOVE = {"transformers", "peft", "rich", "probes", "boson_multimodal", "loss_align"}
NO_TORCH = ["alignment", "alignment.rules", "alignment.errors", "alignment.findings"]


def loaded(modules):
    """The top-level packages that a fresh process holds after importing ``modules``."""
    code = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-c", code, json.dumps(modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_engine_loads_nothing_above_it():
    found = loaded(["alignment", *ENGINE])
    assert "torch" in found
    assert found & ABOVE == set()


def test_this_sees_what_is_loaded():
    assert {"rich", "probes"} <= loaded(["rich.console", "probes"])


@pytest.mark.parametrize("modules", [[name] for name in NO_TORCH], ids=NO_TORCH)
def test_the_catalogue_and_the_errors_cost_no_torch(modules):
    assert loaded(modules) & {"torch", "numpy", *ABOVE} == set()


def imported(path):
    """Every module that a source file imports, relative ones by their own name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or "")


@pytest.mark.parametrize("path", sorted((ROOT / "alignment").rglob("*.py")), ids=lambda path: path.stem)
def test_engine_sources_import_themselves_torch_and_the_standard_library(path):
    outside = {name.partition(".")[0] for name in imported(path) if not name.startswith(".")}
    assert outside - sys.stdlib_module_names - {"torch"} == set()
    assert not any(name.startswith("..") for name in imported(path))


def test_imports_inside_functions_are_seen_too(tmp_path):
    source = tmp_path / "planted.py"
    source.write_text(
        "def f():\n    from probes.batches.barcoded import collate\n    import peft.tuners\n    from .. import x\n"
    )
    assert list(imported(source)) == ["probes.batches.barcoded", "peft.tuners", ".."]
