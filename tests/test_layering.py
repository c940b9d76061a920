"""What may import what: proven in processes of their own, and on the source."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alignment

ROOT = Path(alignment.__file__).parents[1]
ENGINE = sorted(module.name for module in pkgutil.walk_packages(alignment.__path__, "alignment."))
ABOVE = {"transformers", "peft", "rich", "probes", "boson_multimodal", "loss_align"}
RULES = [name for name in ENGINE if name.startswith("alignment.rules")]
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


@pytest.mark.parametrize("modules", [*([name] for name in NO_TORCH), RULES], ids=[*NO_TORCH, "every rule"])
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
    # as many dots as lead out of the engine
    beyond = "." * (len(path.relative_to(ROOT).parts))
    assert not any(name.startswith(beyond) for name in imported(path))


def test_imports_inside_functions_are_seen_too(tmp_path):
    source = tmp_path / "planted.py"
    source.write_text(
        "def f():\n    from probes.batches.barcoded import collate\n    import peft.tuners\n    from .. import x\n"
    )
    assert list(imported(source)) == ["probes.batches.barcoded", "peft.tuners", ".."]


# ------------------------------------------------------------------------------ rooms of probes/

#: From the top, as ARCHITECTURE.md lists them: arrows point down only.
ROOMS = re.findall(r"^\| `(\w+)/` \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
#: What lies at the root, for everybody.
SHARED = {"", "errors"}


def modules_of(package):
    """Every module below a package's folder, by its dotted name, which is empty for the package itself."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def arrows(package):
    """Every (module, module that it imports) inside a package, also inside functions and for types alone."""
    modules = dict(modules_of(package))
    for name, path in modules.items():
        folder = name.split(".") if path.stem == "__init__" and name else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            inside = (node.module or "").split(".")
            if node.level:
                inside = [*folder[: len(folder) - node.level + 1], *inside]
            elif inside.pop(0) != package.name:
                continue
            base = ".".join(part for part in inside if part)
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                yield name, whole if whole in modules else base


def upward(package):
    """Arrows from a room to one above it, or to a room that nobody has listed."""
    found = set()
    for name, target in arrows(package):
        here, there = name.split(".")[0], target.split(".")[0]
        if {here, there} & SHARED or here == there:
            continue
        if not {here, there} <= set(ROOMS) or ROOMS.index(there) < ROOMS.index(here):
            found.add((name, target))
    return found


def circles(package):
    """Modules that import themselves in the end."""
    edges = {}
    for name, target in arrows(package):
        if target != name and target != name.rpartition(".")[0]:  # names that a room's own door hands out
            edges.setdefault(name, set()).add(target)

    def reached(start):
        seen, todo = set(), [*edges.get(start, ())]
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += edges.get(module, ())
        return seen

    return {name for name in edges if name in reached(name)}


def test_probes_is_rooms_and_nothing_else():
    here = {path.name for path in (ROOT / "probes").iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert here == {"__init__.py", "errors.py", *ROOMS}


def test_no_arrow_between_rooms_runs_up():
    assert upward(ROOT / "probes") == set()


def test_no_module_imports_itself_in_the_end():
    assert circles(ROOT / "probes") == set()
    assert circles(ROOT / "alignment") == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from ..checks import check",
        "def f():\n    from ..checks.check import check_loss",
        "from .. import checks",
        "from probes.checks.check import check_loss",
    ],
    ids=["module", "inside a function", "a whole room", "by its whole name"],
)
def test_an_arrow_that_runs_up_is_seen(tmp_path, statement):
    for module in ("host/__init__", "host/files", "checks/__init__", "checks/check"):
        path = tmp_path / "probes" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(statement if module == "host/files" else "")
    assert [name for name, _ in upward(tmp_path / "probes")] == ["host.files"]


def test_a_circle_is_seen(tmp_path):
    (tmp_path / "one.py").write_text("from .two import x\n")
    (tmp_path / "two.py").write_text("def f():\n    from .one import y\n")
    assert circles(tmp_path) == {"one", "two"}


def test_the_tests_mirror_the_rooms():
    rooms = {
        path.name for path in (ROOT / "tests" / "probes").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert rooms <= set(ROOMS)


def test_no_two_files_of_the_tests_share_a_name():
    """They lie on one path, without packages: the second one would never be imported."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert {name for name in names if names.count(name) > 1} == set()


#: A module beyond it is two ideas, and becomes two files.
LONGEST = 400


def long_modules(*packages):
    """Modules of packages that are longer than one idea takes."""
    every = (path for package in packages for path in package.rglob("*.py"))
    return sorted(path.name for path in every if len(path.read_text().splitlines()) > LONGEST)


def test_no_module_is_two_ideas_by_its_length():
    assert long_modules(ROOT / "probes", ROOT / "alignment") == []


def test_a_long_module_is_seen(tmp_path):
    (tmp_path / "short.py").write_text("pass\n" * LONGEST)
    (tmp_path / "long.py").write_text("pass\n" * (LONGEST + 1))
    assert long_modules(tmp_path) == ["long.py"]
