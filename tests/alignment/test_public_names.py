"""The public door: what it opens on, and nothing else."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import alignment

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[2]
PUBLIC = [
    "AlignmentError",
    "Convention",
    "Decision",
    "DualLoss",
    "Evidence",
    "Expansion",
    "Finding",
    "IGNORE_INDEX",
    "InputError",
    "Pairing",
    "RULES",
    "Reading",
    "Rule",
    "Stream",
    "Supervision",
    "audio_streams",
    "choose",
    "compare",
    "delay",
    "dual_loss",
    "expand",
    "expect",
    "infer_convention",
    "pair",
    "read",
    "recover",
    "text_stream",
    "undelay",
]
MODULES = sorted(module.name for module in pkgutil.iter_modules(alignment.__path__))


def test_the_list_is_pinned():
    assert sorted(alignment.__all__) == PUBLIC
    assert set(alignment._HOME) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_the_one_of_its_module(name):
    home = importlib.import_module(f"alignment.{alignment._HOME[name]}")
    assert getattr(alignment, name) is getattr(home, name)
    assert name in home.__all__
    assert name in dir(alignment)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_lists_what_it_has(module):
    found = importlib.import_module(f"alignment.{module}")
    assert found.__all__ == sorted(found.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
    assert found.__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'alignment' has no attribute 'align'"):
        alignment.align  # noqa: B018


@pytest.mark.skipif(tomllib is None, reason="tomllib needs Python 3.11")
def test_the_distribution_is_ours_and_takes_its_version_from_here():
    file = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert file["project"]["name"] == alignment.__distribution__
    assert "version" not in file["project"]
    assert file["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "alignment.__version__"}
