"""The pytest plugin, in projects of its users: what fails, what is written, what is reported."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]
MODEL = """
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, **sizes))

@pytest.fixture
def batch():
    ids = torch.arange(40).view(2, 20) + 3
    return {"input_ids": ids, "labels": ids.clone()}

@pytest.fixture
def shifted():
    return lambda model, batch: model(**batch).loss

@pytest.fixture
def copied():
    return lambda model, batch: F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())
"""
#: The same without transformers, which a worker would import anew.
PLAIN = """
import pytest
import torch
import torch.nn.functional as F

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens, self.lm_head = torch.nn.Embedding(128, 16), torch.nn.Linear(16, 128)

    def forward(self, input_ids, labels):
        logits = self.lm_head(self.embed_tokens(input_ids))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

@pytest.fixture
def model():
    return Model()

@pytest.fixture
def batch():
    ids = torch.arange(40).view(2, 20) + 3
    return {"input_ids": ids, "labels": ids.clone()}

@pytest.fixture
def shifted():
    return lambda model, batch: model(**batch)
"""
BASELINED = (
    "def test_loss(loss_alignment, model, batch, {0}):\n    loss_alignment.check_against_baseline(model, batch, {0})\n"
)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Run a check once: a session inside this one forgets what it imports, and torch cannot be imported twice."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    ids = torch.arange(8)[None]
    check_loss(LlamaForCausalLM(config), {"input_ids": ids, "labels": ids}, lambda model, batch: model(**batch).loss)


@pytest.fixture
def project(pytester, monkeypatch):
    """A user's project: ``run`` writes its test module and runs it in this process, as its CI would."""
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(MODEL)

    def run(source, *arguments, module="test_trainer"):
        pytester.makepyfile(**{module: source})
        plugin = [] if _installed() else ["-p", "loss_alignment_pytest"]
        return pytester.runpytest_inprocess(*plugin, "-p", "no:cacheprovider", *arguments)

    run.path = pytester.path
    return run


def _installed():
    from importlib.metadata import entry_points

    return any(entry.value == "loss_alignment_pytest" for entry in entry_points(group="pytest11"))


def baseline_of(project, name="test_loss", module="test_trainer"):
    return project.path / "loss_alignment_baselines" / module / f"{name}.json"


CHECKED = "def test_loss(loss_alignment, model, batch, {0}):\n    loss_alignment.check(model, batch, {0})\n"


def test_a_right_loss_passes_and_a_copy_fails_with_the_report(project):
    project(CHECKED.format("shifted")).assert_outcomes(passed=1)
    result = project(CHECKED.format("copied"))
    result.assert_outcomes(failed=1)
    named = ["*conftest.py:*: pairs each logit with the label at its own place*", "*^^^^*"]
    result.stdout.fnmatch_lines(["*LA102 copy-objective error on text*", *named, "*FAIL: 1 error*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*probes/*.py:*")


def test_folders_with_a_conftest_of_their_own_are_no_obstacle(project):
    for name in ("one", "two"):
        folder = project.path / name
        folder.mkdir()
        (folder / "conftest.py").write_text("def pytest_runtest_setup(item):\n    pass\n")
        (folder / f"test_{name}.py").write_text("def test_nothing():\n    pass\n")
    project(CHECKED.format("shifted")).assert_outcomes(passed=3)


def test_bad_usage_is_one_sentence(project):
    result = project(
        "def test_loss(loss_alignment, model, batch):\n    loss_alignment.check(model, batch, lambda m, b: None)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*loss-alignment: the loss function must return a scalar tensor*"])


def test_nothing_is_written_unless_asked_for(project):
    result = project(BASELINED.format("shifted"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no baseline *test_loss.json: create it with: pytest * --align-update=create*"])
    assert not baseline_of(project).parent.parent.exists()


def test_a_regression_is_named_with_before_and_after(project):
    project(BASELINED.format("shifted"), "--align-update=create").assert_outcomes(passed=1)
    before = baseline_of(project).read_bytes()
    project(BASELINED.format("shifted")).assert_outcomes(passed=1)
    result = project(BASELINED.format("copied"))
    result.assert_outcomes(failed=1)
    text = " ".join(result.stdout.str().split())
    assert "LA701 regression" in text
    assert "offsets {+1: 38} -> {0: 40} (LA102 copy-objective added)" in text
    assert "--align-update=fix" in text
    assert baseline_of(project).read_bytes() == before


def test_what_the_baseline_knows_of_does_not_fail_until_it_is_checked(project):
    project(BASELINED.format("copied"), "--align-update=create").assert_outcomes(passed=1)
    project(BASELINED.format("copied")).assert_outcomes(passed=1)


def test_fix_writes_what_differs_and_nothing_else(project):
    project(BASELINED.format("shifted"), "--align-update=create")
    before = baseline_of(project).stat().st_mtime_ns
    project(BASELINED.format("shifted"), "--align-update=fix").assert_outcomes(passed=1)
    assert baseline_of(project).stat().st_mtime_ns == before
    project(BASELINED.format("copied"), "--align-update=fix").assert_outcomes(passed=1)
    assert json.loads(baseline_of(project).read_text())["report"]["streams"]["text"]["offsets"] == {"0": 40}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 1, "ki', "is not JSON"),
        ('{"schema": 9}', "schema 9, but this loss-align reads schema 1"),
        ('{"schema": 1, "verdict": NaN}', "NaN is no JSON value"),
    ],
    ids=["cut off", "another version", "NaN"],
)
def test_a_broken_baseline_fails_with_its_reason(project, content, said):
    project(BASELINED.format("shifted"), "--align-update=create")
    baseline_of(project).write_text(content)
    result = project(BASELINED.format("shifted"))
    result.assert_outcomes(failed=1)
    assert said in " ".join(result.stdout.str().split())


def test_a_baseline_that_cannot_be_read_is_written_anew_by_fix(project):
    project(BASELINED.format("shifted"), "--align-update=create")
    baseline_of(project).write_text('{"schema": 1, "ki')
    project(BASELINED.format("shifted"), "--align-update=fix").assert_outcomes(passed=1)
    project(BASELINED.format("shifted")).assert_outcomes(passed=1)


def test_the_record_of_another_kind_is_one_sentence(project):
    project(BASELINED.format("shifted"), "--align-update=create")
    case = {"shapes": {"logits": [1, 2, 3]}}
    record = {"schema": 1, "kind": "probe", "provenance": {}, "cases": {"b1": case}}
    baseline_of(project).write_text(json.dumps(record))
    result = project(BASELINED.format("shifted"))
    assert "is the record of a probe, not of a preflight" in " ".join(result.stdout.str().split())
    result.stdout.no_fnmatch_line("*direct cause*")


def test_a_folder_that_cannot_be_made_is_one_sentence(project):
    (project.path / "loss_alignment_baselines").touch()
    result = project(BASELINED.format("shifted"), "--align-update=create")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cannot create *"])
    result.stdout.no_fnmatch_line("*NotADirectoryError*")


def test_a_loss_that_is_no_number_has_no_baseline(project):
    source = BASELINED.format("shifted").replace(
        "batch, shifted)\n", "batch, lambda m, b: m(**b).loss * float('nan'))\n", 2
    )
    project(source, "--align-update=create").assert_outcomes(failed=1)
    assert not baseline_of(project).exists()


def test_tests_of_one_name_in_two_classes_have_two_baselines(project):
    method = """
class Test{0}:
    def test_loss(self, loss_alignment, model, batch, {1}):
        loss_alignment.check_against_baseline(model, batch, {1})
"""
    source = method.format("Right", "shifted") + method.format("Copy", "copied")
    created = project(source, "--align-update=create")
    created.assert_outcomes(passed=2)
    created.stdout.fnmatch_lines(["written baseline: *TestCopy.test_loss.json"])
    project(source).assert_outcomes(passed=2)
    project(source.replace("shifted", "copied")).assert_outcomes(passed=1, failed=1)


def test_two_baselines_of_one_test_need_names(project):
    twice = BASELINED.format("shifted") + BASELINED.format("shifted").splitlines()[-1] + "\n"
    result = project(twice, "--align-update=create")
    result.stdout.fnmatch_lines(["*two calls share the baseline*"])


def test_ci_writes_nothing(project, monkeypatch):
    monkeypatch.setenv("CI", "true")
    result = project(BASELINED.format("shifted"), "--align-update=create")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--align-update writes baselines, which CI never does*"])
    assert not baseline_of(project).exists()


def test_unused_baselines_are_reported_and_trimmed(project):
    project(BASELINED.format("shifted"), "--align-update=create").assert_outcomes(passed=1)
    renamed = BASELINED.format("shifted").replace("test_loss", "test_other")
    created = project(renamed, "--align-update=create")
    created.stdout.fnmatch_lines(["unused baseline: *test_loss.json", "no test uses them*"])
    assert baseline_of(project).exists()
    project(renamed, "--align-update=trim").stdout.fnmatch_lines(["removed baseline: *test_loss.json"])
    assert not baseline_of(project).exists()
    assert baseline_of(project, "test_other").exists()


def test_what_workers_use_is_kept_and_what_none_uses_is_trimmed(project):
    (project.path / "conftest.py").write_text(PLAIN)
    source = BASELINED.format("shifted")
    other, unused = (source.replace("test_loss", name) for name in ("test_other", "test_unused"))
    project(source + unused, "--align-update=create").assert_outcomes(passed=2)
    done = project(source + other, "--align-update=create", "-n", "1")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["written baseline: *test_other.json", "unused baseline: *test_unused.json"])
    assert all(baseline_of(project, name).exists() for name in ("test_loss", "test_other", "test_unused"))


def test_a_part_of_the_tests_says_nothing_of_other_baselines(project):
    two = BASELINED.format("shifted") + BASELINED.format("shifted").replace("test_loss", "test_other")
    project(two, "--align-update=create").assert_outcomes(passed=2)
    for part in (("-k", "other"), ("--deselect", "test_trainer.py::test_loss"), ("test_trainer.py::test_other",)):
        project(two, *part, "--align-update=trim").stdout.no_fnmatch_line("*baseline: *")
        assert baseline_of(project).exists()


def test_the_baseline_of_a_vanished_module_is_reported(project):
    project(BASELINED.format("shifted"), "--align-update=create")
    (project.path / "test_trainer.py").unlink()
    result = project(CHECKED.format("shifted"), module="test_elsewhere")
    result.stdout.fnmatch_lines(["unused baseline: *test_trainer*test_loss.json"])


def test_junit_properties_and_marker(project):
    project(CHECKED.format("copied"), "--junitxml=junit.xml", "-m", "loss_alignment", "--strict-markers")
    tree = ET.parse(project.path / "junit.xml")  # noqa: S314 - pytest's own
    properties = {entry.get("name"): entry.get("value") for entry in tree.iter("property")}
    assert properties == {"loss_alignment_verdict": "fail", "loss_alignment_findings": "LA102"}


@pytest.mark.parametrize(("start", "folder"), [("python -m pytest", "alignment"), ("pytest", "probes")])
def test_a_folder_of_the_same_name_stops_no_other_test(tmp_path, folder, start):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "test_own.py").write_text(
        "import sys\n"
        "def test_own():\n    assert not {'torch', 'rich', 'alignment', 'probes'} & set(sys.modules)\n"
        "def test_loss(loss_alignment):\n    pass\n"
    )
    code = "import sys; sys.path[0] = ''" if start == "python -m pytest" else "import sys; sys.path.pop(0)"
    plugin = [] if _installed() else ["-p", "loss_alignment_pytest"]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import pytest; pytest.main()", "-q", "-p", "no:cacheprovider", *plugin],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "" if _installed() else str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "which does not belong to loss-alignment" in " ".join(done.stdout.split())


DISTILLED = """
import torch
import torch.nn.functional as F

def taught(model, batch):
    logits = model(**batch).logits[:, :-1]
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")

def test_loss(loss_alignment, model, batch):
    report = loss_alignment.check(model, batch, taught{0})
    assert [one.code for one in report.accepted] == ["LA802"]
"""


def test_a_blind_spot_fails_a_test_until_it_is_accepted_by_name(project):
    result = project(DISTILLED.format(""))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*LA802 unread-rows blind on text*", "*INCOMPLETE: 1 blind spot*"])
    project(DISTILLED.format(', ignore=["LA802:text"]')).assert_outcomes(passed=1)
    project(DISTILLED.format(', ignore=["LA802:audio"]')).assert_outcomes(failed=1)


def test_a_data_set_is_swept_in_a_test(pytester):
    pytester.makepyfile(
        """
        def rows(label):
            for number in range(3):
                yield {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, label, -100]}

        def test_right(loss_alignment):
            assert loss_alignment.check_data(rows(7)).data["targets"] == 3

        def test_wrong(loss_alignment):
            loss_alignment.check_data(rows(-100))

        def test_nothing_to_iterate(loss_alignment):
            loss_alignment.check_data(3)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*LA206*", "*something to iterate over*"])
