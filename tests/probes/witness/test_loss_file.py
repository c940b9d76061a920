"""``--loss``: a file or a module, found from the working directory; a name that is wrong gets the nearest right one."""

import sys

import pytest

from probes.errors import UsageError
from probes.witness.loss_file import load_loss

SOURCE = "from neighbour_of_a_loss import VALUE\n\n\ndef loss(model, batch):\n    return VALUE\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer_of_a_user.py").write_text(SOURCE)
    (tmp_path / "neighbour_of_a_loss.py").write_text("VALUE = 7\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "losses.py").write_text("def loss(model, batch):\n    return 8\n")
    yield tmp_path
    for name in ("trainer_of_a_user", "neighbour_of_a_loss", "pack", "pack.losses"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("spec", "value"), [("trainer_of_a_user:loss", 7), ("trainer_of_a_user.py:loss", 7), ("pack.losses:loss", 8)]
)
def test_it_is_found_in_the_working_directory(folder, spec, value, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    before = list(sys.path)
    assert load_loss(spec)(None, None) == value
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("trainer_of_nobody:loss", "as in trainer_of_nobody.py:loss"),
        ("no.such:loss", "as in no/such.py:loss"),
        ("trainer_of_a_user:los", "did you mean loss?"),
        ("trainer_of_a_user", "must be FILE.py:FUNC or package.module:FUNC"),
    ],
)
def test_what_is_not_found_is_said_with_the_next_step(folder, spec, said):
    with pytest.raises(UsageError) as caught:
        load_loss(spec)
    assert said in str(caught.value)


def test_a_module_that_needs_another_says_which(folder):
    (folder / "neighbour_of_a_loss.py").unlink()
    with pytest.raises(UsageError, match="No module named 'neighbour_of_a_loss'"):
        load_loss("trainer_of_a_user:loss")


@pytest.mark.parametrize("spec", ["trainer_of_a_user:loss", "trainer_of_a_user.py:loss"])
def test_a_module_may_take_its_folder_off_the_path(folder, spec, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    (folder / "trainer_of_a_user.py").write_text(f"{SOURCE}\n\nimport sys\n\nsys.path.pop(0)\n")
    assert load_loss(spec)(None, None) == 7
    assert sys.path == before
