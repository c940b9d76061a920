"""Where a model's code was imported from: the installed package, or the copy that a trainer carries."""

import sys

import pytest
import torch
from live_runs import llama
from narrow import narrow_default
from torch import nn

from loss_align import main
from probes import check_loss
from probes.host.origin import other_copies, package_of, told_origin

PACKAGE = "carried_by_a_trainer"
CODE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.lm_head = nn.Embedding(60, 8), nn.Linear(8, 60)

    def forward(self, input_ids, labels=None):
        return self.lm_head(self.body(input_ids))
"""


def loss(model, batch):
    logits = model(batch["input_ids"])
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A package in the folder of a trainer, imported from there."""
    folder = tmp_path / "trainer" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    sys.modules.pop(PACKAGE, None)


def test_a_report_says_where_the_models_package_lies(carried, monkeypatch):
    monkeypatch.chdir(carried.parent)
    model = __import__(PACKAGE).Model()
    ids = torch.arange(3, 43).view(2, 20)
    report = check_loss(model, {"input_ids": ids, "labels": ids}, loss, heads="lm_head")
    assert (report.environment["package"], report.environment["package_from"]) == (PACKAGE, f"./{PACKAGE}")
    assert f"{PACKAGE} from ./{PACKAGE}" in " ".join(str(report).split())


def test_an_installed_package_is_told_without_its_machine(monkeypatch):
    monkeypatch.chdir("/")
    assert package_of(llama()) == "transformers"
    assert told_origin("transformers") == "site-packages/transformers"


def test_a_folder_elsewhere_is_told_whole(carried, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    __import__(PACKAGE)
    assert told_origin(PACKAGE) == str(carried)
    assert told_origin("no_such_package") == ""


def test_a_copy_that_was_not_imported_is_named(carried, tmp_path):
    __import__(PACKAGE)
    other = tmp_path / "other" / PACKAGE
    other.mkdir(parents=True)
    assert other_copies(PACKAGE, [other.parent]) == []  # a folder of data that has the name
    (other / "__init__.py").touch()
    (note,) = other_copies(PACKAGE, [other.parent, other.parent, carried.parent])
    assert f"PYTHONPATH={other.parent} loss-align" in note
    assert str(carried) in note


@pytest.mark.parametrize("family", [pytest.param("higgs", marks=pytest.mark.higgs)])
def test_preflight_names_the_copy_beside_the_loss(family, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")  # a path is not broken in two
    copy = tmp_path / "boson_multimodal"
    copy.mkdir()
    (copy / "__init__.py").touch()
    narrow_default(monkeypatch)
    assert main(["preflight", "--length", "96"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "boson_multimodal from site-packages/boson_multimodal" in said
    assert f"PYTHONPATH={tmp_path} loss-align" in said
