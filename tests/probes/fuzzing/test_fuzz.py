"""The fuzz command and its cases: what is written can be read, what fails is shrunk, what is right stays silent."""

import json
from pathlib import Path

import pytest
import torch
from lm_tiny import tiny_model
from narrow import narrow_default

from loss_align import main
from probes.errors import UsageError
from probes.fuzzing.cases import Case, End, Reference, Target, Text, parse_case

ROOT = Path(__file__).parents[3]
TRAINERS = ROOT / "fixtures" / "trainers"


@pytest.mark.parametrize("text", ["t3a", "t1n r0 g2- e / t5p e- g0", "r4 / g1 t2x t1o"])
def test_cases_are_read_as_they_are_written(text):
    assert str(parse_case(text)) == text


def test_a_case_is_the_batch_it_says():
    case = Case(((Text(3, "p"), Reference(2), Target(4, trained=True), End(labelled=True)),))
    assert str(case) == "t3p r2 g4 e"
    batch = case.higgs_batch()
    assert batch["label_ids"][0, :3].tolist() == [-100, 11, 12]
    assert batch["audio_in_ids"].shape == (8, 2 + 2 + 7)
    assert batch["audio_out_ids"].shape == (8, 4 + 2 + 7)
    assert (batch["label_audio_ids"] != -100).sum() == 8 * 5
    text = case.text_batch(torch.arange(5, 50))
    assert text["input_ids"].tolist() == [[5, 6, 7]]
    assert text["labels"].tolist() == [[-100, 6, 7]]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty sample"), ("t3a /", "empty sample"), ("t3q", "'t3q' is no piece"), ("foo", "'foo' is no piece")],
)
def test_what_is_no_case_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_case(text)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    narrow_default(monkeypatch)


def fuzz(tmp_path, *options):
    path = tmp_path / "fuzz.json"
    code = main(["fuzz", "--json", str(path), *options])
    return code, json.loads(path.read_text())


@pytest.mark.versions
def test_a_correct_loss_has_no_counterexample(tmp_path):
    code, told = fuzz(tmp_path, "--examples", "8")
    assert (code, told["verdict"], told["counterexamples"]) == (0, "pass", [])
    assert told["cases"] == 8


@pytest.mark.higgs
def test_a_fault_is_shrunk_and_its_command_shows_it_again(tmp_path, capsys):
    loss = ("--loss", f"{TRAINERS / 'seed_after_fix.py'}:loss")
    code, told = fuzz(tmp_path, "--examples", "3", *loss)
    assert code == 1
    (found,) = told["counterexamples"]
    assert found["code"] == "LA102"
    assert len(found["case"].split()) <= 3
    assert f"--case {found['case']}" in capsys.readouterr().out.replace("'", "")
    code, again = fuzz(tmp_path, "--case", found["case"], *loss)
    assert (code, again["counterexamples"][0]["code"]) == (1, "LA102")
    code, right = fuzz(tmp_path, "--case", found["case"])
    assert (code, right["counterexamples"]) == (0, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--case", "t3n"), "outside the loss's contract"),
        (("--allow", "nothing"), "--allow nothing: choose from empty"),
        (("--case", "t3"), "is no piece"),
    ],
    ids=["outside", "allow", "case"],
)
def test_bad_calls(options, message, capsys):
    assert main(["fuzz", *options]) == 2
    assert message in capsys.readouterr().err


def test_allowed_batches_are_drawn(tmp_path):
    code, _ = fuzz(tmp_path, "--case", "t3a", "--allow", "text-only")
    assert code == 0
    code, _ = fuzz(tmp_path, "--case", "t3n g2-", "--allow", "empty")
    assert code == 0


def test_without_hypothesis_it_is_asked_for(tmp_path, warm):
    (tmp_path / "hypothesis.py").write_text("raise ImportError('not installed')")
    done = warm.python("-m", "loss_align", "fuzz", cwd=tmp_path)
    assert done.returncode == 3
    assert 'pip install "loss-alignment[fuzz]"' in done.stderr


DISTILLED = """
import torch
from lm_tiny import tiny_model
import torch.nn.functional as F

def loss(model, batch):
    logits, labels = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    rows = logits[labels != -100]
    teacher = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    return F.kl_div(rows.log_softmax(-1), teacher, reduction="batchmean")
"""


def test_cases_that_cannot_be_read_are_no_pass(tmp_path, capsys):
    """A soft teacher names no token: no case is wrong, and none was judged."""
    tiny_model("LlamaForCausalLM").save_pretrained(tmp_path / "model")
    (tmp_path / "loss.py").write_text(DISTILLED)
    words = ("--model", str(tmp_path / "model"), "--loss", f"{tmp_path / 'loss.py'}:loss", "--examples", "5")
    code, told = fuzz(tmp_path, *words)
    assert (code, told["verdict"]) == (4, "incomplete")
    assert [one["code"] for one in told["counterexamples"]] == ["LA802"]
    case = told["counterexamples"][0]["case"]
    assert "INCOMPLETE: 5 cases, 1 kind of finding" in capsys.readouterr().out
    assert fuzz(tmp_path, *words, "--case", case)[0] == 4
    assert fuzz(tmp_path, *words, "--ignore", "LA802:text")[0] == 0
