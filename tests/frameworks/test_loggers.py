"""Verdict, table of streams and page, in the loggers that a training writes to; every one of them on this disk."""

import json
import os
import sys

import pytest
from lightning_rows import Module, fit, llama
from transformers import Trainer, TrainingArguments

from probes import AlignmentCallback, LightningAlignmentCallback

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("offline")]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    for key, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": tmp_path,
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path / 'mlruns'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": tmp_path / "trackio",
        "HF_MLFLOW_LOG_ARTIFACTS": "0",
    }.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.chdir(tmp_path)
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.finish()  # one run a process: the next test would be logged in this one's folder


@pytest.fixture
def trained(tmp_path, monkeypatch):
    def run(*where):
        from trainer_rows import causal

        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
        arguments = TrainingArguments(
            str(tmp_path / "out"),
            max_steps=1,
            report_to=list(where),
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        callback = AlignmentCallback()
        data = [causal(index) for index in range(8)]
        Trainer(llama(), arguments, train_dataset=data, callbacks=[callback]).train()
        assert callback.report.verdict == "pass"

    return run


def _texts(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for at in {path.parent for path in folder.rglob("events.out*")}:
        events = EventAccumulator(str(at)).Reload()
        tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("loss_alignment")]
        found += [events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags]
    return found


def test_tensorboard(trained, tmp_path):
    trained("tensorboard")
    assert [text.splitlines()[0] for text in _texts(tmp_path)] == ["## ✅ loss-align: pass · LlamaForCausalLM"]


def test_mlflow(trained, tmp_path):
    trained("mlflow")
    tags = [path.read_text() for path in tmp_path.rglob("tags/loss_alignment.verdict")]
    assert tags == ["pass"]
    assert {path.suffix for path in tmp_path.rglob("artifacts/loss_alignment.*")} == {".md", ".html"}


def test_wandb(trained, tmp_path):
    trained("wandb")
    pages = list(tmp_path.rglob("media/html/loss_alignment/page*.html"))
    tables = list(tmp_path.rglob("media/table/loss_alignment/streams*.json"))
    assert len(pages) == len(tables) == 1
    assert json.loads(tables[0].read_text())["data"][0][0] == "text"


def test_trackio(trained, monkeypatch):
    import trackio

    told = []
    own = trackio.log
    monkeypatch.setattr(
        trackio, "log", lambda metrics, *rest, **more: (told.append(metrics), own(metrics, *rest, **more))
    )
    trained("trackio")
    written = [one["loss_alignment"] for one in told if "loss_alignment" in one]
    assert [type(one).__name__ for one in written] == ["Markdown"]


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "WandbLogger", "MLFlowLogger"])
def test_loggers_of_lightning(tmp_path, kind):
    from lightning.pytorch import loggers

    made = {
        "TensorBoardLogger": lambda: loggers.TensorBoardLogger(str(tmp_path / "tb")),
        "WandbLogger": lambda: loggers.WandbLogger(save_dir=str(tmp_path), offline=True),
        "MLFlowLogger": lambda: loggers.MLFlowLogger(tracking_uri=os.environ["MLFLOW_TRACKING_URI"]),
    }[kind]()
    callback = LightningAlignmentCallback()
    fit(Module, llama, {}, False, [callback], logger=made)
    assert callback.report.verdict == "pass"
    if kind == "WandbLogger":
        made.experiment.finish()  # what no later step has taken along is written then
    found = {
        "TensorBoardLogger": lambda: len(_texts(tmp_path)),
        "WandbLogger": lambda: len(list(tmp_path.rglob("media/html/loss_alignment/page*.html"))),
        "MLFlowLogger": lambda: len(list(tmp_path.rglob("artifacts/loss_alignment.html"))),
    }[kind]()
    assert found == 1


def test_what_a_logger_refuses_ends_no_training(tmp_path):
    from probes.live.loggers import log_report
    from probes.records.report import Report

    class WandbLogger:
        @property
        def experiment(self):
            raise RuntimeError("no key")

    with pytest.warns(UserWarning, match="could not be logged by WandbLogger: no key"):
        log_report(Report(), [WandbLogger(), object()])
