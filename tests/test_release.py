"""What is released: an sdist, the wheel built from it, and that wheel in an environment with nothing else of ours."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from alignment import __version__

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: What an sdist is built from; the checkout stays as it is.
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "loss_align.py", "loss_alignment_pytest.py")
PACKAGES = ("alignment", "probes")
NAME = f"loss_alignment-{__version__}"
TOP = {*PACKAGES, "loss_align.py", "loss_alignment_pytest.py", f"{NAME}.dist-info"}
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def ran(*words, cwd, code=0, **environ):
    """What a process that ends with ``code`` prints, standard output and error together."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=kept | environ, timeout=240, check=False, **told)
    assert done.returncode == code, done.stdout
    return done.stdout


def built(kind, source, out):
    """A distribution, as ``python -m build --no-isolation`` builds it."""
    ran(sys.executable, "-c", BUILD, f"build_{kind}", out, cwd=source)
    (path,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    shutil.copy(__file__, source / "tests")
    return built("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    return built("wheel", folder / NAME, tmp_path_factory.mktemp("wheel"))


@dataclass
class Clean:
    """An environment that has what we depend on, and nothing of ours."""

    home: Path

    def __post_init__(self):
        ran(sys.executable, "-m", "venv", "--without-pip", self.home, cwd=self.home.parent)
        self.python, self.command = (self.home / "bin" / name for name in ("python", "loss-align"))
        (self.packages,) = self.home.glob("lib/python*/site-packages")
        # a path in a .pth file brings packages, and no .pth files of theirs: not our editable installation
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def pip(self, *words):
        return ran(sys.executable, "-m", "pip", "--python", self.python, *words, cwd=self.home)

    def install(self, wheel):
        self.pip("install", "-q", "--no-deps", "--no-index", "--ignore-installed", "--no-compile", wheel)

    def files(self):
        return {path for path in self.home.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def clean(tmp_path):
    return Clean(tmp_path / "clean")


def test_a_wheel_holds_the_packages_with_all_that_they_read_and_nothing_else(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in held} == TOP
    ours = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.*")}
    ours = {path for path in ours if "__pycache__" not in path}
    assert {name for name in held if name.startswith(("alignment/", "probes/"))} == ours
    assert f"{NAME}.dist-info/licenses/LICENSE" in held


def test_an_sdist_holds_what_a_wheel_is_built_from(sdist):
    with tarfile.open(sdist) as packed:
        held = {name.partition("/")[2].partition("/")[0] for name in packed.getnames()}
    assert held - {""} == {*SOURCES, *PACKAGES, "PKG-INFO", "setup.cfg", "loss_alignment.egg-info"}


def test_it_is_installed_used_and_gone(wheel, clean, tmp_path):
    before = clean.files()
    clean.install(wheel)
    home = tmp_path / "home"
    home.mkdir()
    assert ran(clean.command, "--version", cwd=home, HOME=str(home)) == f"loss-align {__version__}\n"
    assert "copy-objective" in ran(clean.command, "rules", "LA102", cwd=home, HOME=str(home))
    assert list(home.iterdir()) == []
    clean.pip("uninstall", "-q", "-y", "loss-alignment")
    assert clean.files() == before


def test_another_package_of_our_name_is_told_whichever_came_last(wheel, clean, tmp_path):
    """No wheel can refuse to be installed: each writes over the other, and the command says so."""
    shutil.unpack_archive(wheel, clean.packages, "zip")
    theirs = clean.packages / "aligner-1.0.dist-info"
    theirs.mkdir()
    (theirs / "METADATA").write_text("Metadata-Version: 2.1\nName: aligner\nVersion: 1.0\n")
    (theirs / "RECORD").write_text("alignment/__init__.py,,\n")
    said = ran(clean.python, "-m", "loss_align", "rules", "LA102", cwd=tmp_path)
    assert "warning: aligner has a package 'alignment' too" in said
    (clean.packages / "alignment" / "__init__.py").write_text("theirs = 1\n")
    said = ran(clean.python, "-m", "loss_align", "rules", "LA102", cwd=tmp_path, code=3)
    assert "which does not belong to loss-alignment: aligner has written over it" in said
    said = ran(clean.python, "-c", "from probes import check_loss", cwd=tmp_path, code=1)
    assert "ImportError: package 'alignment' was imported from" in said


@pytest.mark.deep
def test_what_readme_begins_with_runs_from_the_wheel(wheel, clean, tmp_path):
    """Every command and the Python of "Start", outside of the checkout; of the clone only the scripts are there."""
    clean.install(wheel)
    here = tmp_path / "here"
    shutil.copytree(ROOT / "fixtures" / "scripts", here / "fixtures" / "scripts")
    start = README.partition("## Start")[2].partition("## What do you need?")[0]
    commands = re.findall(r"^loss-align .*$", start, re.MULTILINE)
    assert commands == ["loss-align run fixtures/scripts/text_loop.py --loss copy"]
    assert "LA102 copy-objective" in ran(clean.command, *commands[0].split()[1:], cwd=here, code=1)
    (code,) = re.findall(r"```python\n(.*?)```", start, re.DOTALL)
    (here / "test_start.py").write_text(code)
    assert "PASS" in ran(clean.python, "test_start.py", cwd=here)
    assert "1 passed" in ran(clean.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_start.py", cwd=here)
    told = ran(clean.python, "-c", "import alignment; print(alignment.__file__)", cwd=here)
    assert Path(told.strip()).is_relative_to(clean.home)
