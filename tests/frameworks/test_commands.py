"""Command-line tools of real packages under ``loss-align run --``: their processes, and what these train."""

import json
import os
import subprocess
import sys
from pathlib import Path

import litgpt_rows
import pytest
from tiny import conversations, llama, tokenizer

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
#: The module of each package in which a fault is planted, as it has been imported, and how: labels of one place on.
FAULTS = {
    "trl": (
        "trl.trainer.sft_trainer",
        """\
own = module.SFTTrainer.compute_loss

def further(self, model, inputs, *args, **kwargs):
    return own(self, model, {**inputs, "labels": inputs["labels"].roll(-1, -1)}, *args, **kwargs)

module.SFTTrainer.compute_loss = further
""",
    ),
    "litgpt": (
        "litgpt.utils",
        """\
own = module.chunked_cross_entropy

def further(logits, targets, *args, **kwargs):
    return own(logits, targets.roll(-1, -1), *args, **kwargs)

module.chunked_cross_entropy = further
""",
    ),
}
#: What shows them: the labels' ends come round to their beginnings.
SHOWN = {"LA103", "LA105"}

#: A ``sitecustomize`` of the user's own, which ours hides and runs: it plants a fault.
PLANTED = """\
import importlib.util, sys

class Planting:
    def find_spec(self, name, path=None, target=None):
        if name != {name!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        own = spec.loader.exec_module

        def exec_module(module):
            own(module)
            exec({fault!r}, {{"module": module}})

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Planting())
"""

LIGHTNING = """\
import sys
sys.path[:0] = {places!r}
from lightning_rows import Module, fit, llama

fit(Module, llama, {{"strategy": "ddp", "devices": 2}}, {bad}, [])
"""


@pytest.fixture
def ran(tmp_path):
    """Exit code, report and standard error of ``loss-align run -- COMMAND``."""

    def run(*words, path=()):
        out = tmp_path / "r.json"
        command = [str(BIN / "loss-align"), "run", "--json", str(out), "--", *map(str, words)]
        environ = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=500
        )
        return done.returncode, json.loads(out.read_text(encoding="utf-8")), done.stderr

    return run


def planted(folder, tool):
    """A folder for PYTHONPATH whose ``sitecustomize`` plants the fault."""
    name, fault = FAULTS[tool]
    (folder / "planted").mkdir()
    (folder / "planted" / "sitecustomize.py").write_text(PLANTED.format(name=name, fault=fault))
    return [folder / "planted"]


def errors(report):
    return {one["code"] for one in report["findings"] if one["severity"] == "error"}


@pytest.mark.parametrize("bad", [False, True], ids=["right", "planted"])
def test_trl_sft(bad, ran, tmp_path):
    tok = tokenizer("chatml")
    for one in (tok, llama(tok)):
        one.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    lines = [json.dumps(one) for one in conversations()]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = (
        *("--model_name_or_path", "./model", "--dataset_name", "./data", "--output_dir", "out", "--max_steps", "2"),
        *("--per_device_train_batch_size", "2", "--report_to", "none", "--use_cpu", "true", "--bf16", "false"),
        *("--save_strategy", "no"),
    )
    code, report, err = ran(BIN / "trl", "sft", *words, path=planted(tmp_path, "trl") if bad else ())
    assert (code, report["verdict"], set(report["streams"])) == (int(bad), "fail" if bad else "pass", {"text"}), err
    assert bool(errors(report) & SHOWN) is bad


@pytest.mark.parametrize("bad", [False, True], ids=["right", "planted"])
def test_litgpt_finetune(bad, ran, tmp_path):
    words = (
        *("finetune_full", litgpt_rows.checkpoint(), "--out_dir", "out", "--precision", "32-true"),
        *("--data", "JSON", "--data.json_path", litgpt_rows.instructions(), "--data.val_split_fraction", "0.2"),
        *("--data.num_workers", "0", "--train.global_batch_size", "4", "--train.micro_batch_size", "4"),
        *("--train.lr_warmup_steps", "1", "--train.max_steps", "2", "--train.epochs", "1"),
        *("--eval.interval", "100", "--eval.max_new_tokens", "1", "--eval.max_iters", "1"),
        *("--eval.final_validation", "false"),
    )
    code, report, err = ran(BIN / "litgpt", *words, path=planted(tmp_path, "litgpt") if bad else ())
    assert (code, report["verdict"], set(report["streams"])) == (int(bad), "fail" if bad else "pass", {"text"}), err
    assert bool(errors(report) & SHOWN) is bad


@pytest.mark.parametrize("bad", [False, True], ids=["right", "planted"])
def test_lightning_starts_ranks_of_its_own(bad, ran, tmp_path):
    script = tmp_path / "train.py"
    places = [str(ROOT / place) for place in ("tests/frameworks", "tests/probes", "tests")]
    script.write_text(LIGHTNING.format(places=places, bad=bad))
    code, report, err = ran(sys.executable, script)
    assert (code, errors(report)) == ((1, {"LA103"}) if bad else (0, set())), err  # means of ranks are a warning
    assert len(report["ranks"]) == 2
