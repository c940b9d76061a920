"""Preflight on the released model: every promise of the main job, through the command."""

import json
import logging
from pathlib import Path

import pytest
import torch
from narrow import narrow_batch, narrow_default, narrow_model

from alignment import dual_loss
from loss_align import main
from probes.batches.barcoded import barcoded_batch
from probes.checks.preflight import Plan, preflight
from probes.models.higgs import HiggsAdapter, small_model

pytestmark = [pytest.mark.usefixtures("no_lines"), pytest.mark.higgs]

ROOT = Path(__file__).parents[3]
TRAINERS = ROOT / "fixtures" / "trainers"
CHATML = ROOT / "fixtures" / "chatml"
CHECKS = [
    "text-length",
    "text-loss",
    "audio-loss",
    "fallback-path",
    "training-step",
    "pairing-text",
    "pairing-audio",
    "coverage",
    "labels-received",
    "causality",
    "decode",
]


@pytest.fixture
def wide(tmp_path):
    """Run ``loss-align preflight`` in this process; returns exit code and JSON report."""

    def call(*options):
        path = tmp_path / "report.json"
        path.unlink(missing_ok=True)
        code = main(["preflight", "--json", str(path), *options])
        return code, json.loads(path.read_text())

    return call


@pytest.fixture
def run(wide, monkeypatch):
    """The same on a narrow vocabulary, and on short samples where none are named."""
    narrow_default(monkeypatch)

    def call(*options):
        return wide(*(() if {"--data", "--train_manifest", "--length"} & {*options} else ("--length", "96")), *options)

    return call


def loss(name):
    return ("--loss", f"{TRAINERS / name}.py:loss")


def codes(report):
    return [(f["code"], f["stream"], f["severity"]) for f in report["findings"]]


def statuses(report):
    return {check["id"]: check["status"] for check in report["checks"]}


def test_the_default_run_shows_the_numbers_of_the_seed_document(wide):
    code, report = wide()
    assert (code, report["verdict"], report["findings"]) == (0, "pass", [])
    assert report["shapes"]["logits"] == [2, 256, 128256]
    assert report["shapes"]["expanded_labels"] == [2, 256]
    assert report["streams"]["text"]["expected"] == report["streams"]["text"]["supervised"] == 240
    assert statuses(report) == dict.fromkeys(CHECKS, "pass")
    for kind in ("text", "audio"):
        decision = report["decision"][kind]
        assert (decision["pairing"], decision["convention"], decision["verified"]) == (
            "shifted",
            "position_aligned",
            True,
        )
    for stream in report["streams"].values():
        assert stream["offsets"] == {"1": stream["expected"]}
        assert (stream["missing"], stream["unexpected"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "lengths"),
    [(("--length", "256"), ("255", "256")), (("--length", "128", "--batch-size", "3"), ("127", "128"))],
    ids=["seed", "another size"],
)
def test_before_the_fix_the_lengths_and_the_slice_are_named(run, options, lengths):
    code, report = run(*loss("seed_before_fix"), *options)
    assert code == 1
    assert codes(report) == [("LA101", "text", "error")]
    message = report["findings"][0]["message"]
    assert f"{lengths[0]} vs {lengths[1]}" in message
    assert "[..., :-1, :]" in message
    assert statuses(report)["text-length"] == "fail"
    assert statuses(report)["training-step"] == "skip"


def test_after_the_fix_every_text_logit_copies(run):
    code, report = run(*loss("seed_after_fix"), "--length", "256")
    assert code == 1
    assert codes(report) == [("LA102", "text", "error")]
    assert report["findings"][0]["count"] == 240
    assert "agree in length" in report["findings"][0]["message"]
    assert "repeat the token they have just read" in report["findings"][0]["message"]
    assert report["streams"]["text"]["offsets"] == {"0": 240}
    assert report["streams"]["audio[0]"]["offsets"] == {"1": 50}


def test_the_same_loss_is_right_on_labels_shifted_beforehand(run):
    code, report = run(*loss("seed_after_fix"), "--labels", "pre-shifted")
    assert code == 0
    assert codes(report) == [("LA201", "text", "warning")]


def test_pre_shifted_labels_are_paired_directly_and_the_merge_loses_some(run):
    code, report = run("--labels", "pre-shifted")
    decision = report["decision"]["text"]
    assert (code, decision["pairing"], decision["verified"]) == (0, "direct", True)
    assert codes(report) == [("LA201", "text", "warning")]
    assert report["findings"][0]["count"] == 2


def test_a_correct_loss_on_pre_shifted_labels_shifts_twice(run):
    code, report = run(*loss("correct"), "--labels", "pre-shifted")
    assert code == 1
    assert ("LA103", "text", "error") in codes(report)


@pytest.mark.parametrize("size", ["1", "2", "3"])
def test_withheld_labels_take_the_fallback_path(run, size):
    code, report = run("--labels", "none", "--batch-size", size)
    assert (code, report["findings"]) == (0, [])
    assert "expanded_labels" not in report["shapes"]
    assert report["decision"]["text"]["path"] == "fallback"
    assert report["decision"]["text"]["verified"]
    assert statuses(report)["labels-received"] == "skip"
    assert report["streams"]["text"]["supervised"] == report["streams"]["text"]["expected"] > 0


def test_unexpanded_labels_pass_without_audio_and_fail_with_it(run):
    code, _ = run(*loss("seed_fallback"), "--data", str(CHATML / "text_only.jsonl"))
    assert code == 0
    code, report = run(*loss("seed_fallback"), "--data", str(CHATML / "speech.jsonl"))
    assert code == 1
    assert codes(report)[0][0] in ("LA101", "LA105")


SPEECH = ("--data", str(CHATML / "speech.jsonl"))
PADDED = {"barcoded-3": ("3",), "chatml-2": ("2", *SPEECH)}
MORE_PADDED = {"barcoded-1": ("1",), "barcoded-2": ("2",), "chatml-1": ("1", *SPEECH), "chatml-3": ("3", *SPEECH)}


@pytest.mark.parametrize(
    ("size", "source"),
    [
        *(pytest.param(size, source, id=name) for name, (size, *source) in PADDED.items()),
        *(pytest.param(size, source, id=name, marks=pytest.mark.deep) for name, (size, *source) in MORE_PADDED.items()),
    ],
)
def test_verdicts_do_not_depend_on_the_padding_side(run, size, source):
    options = ("--batch-size", size, *source)
    assert run(*options)[0] == 0
    code, report = run(*options, *loss("seed_after_fix"))
    assert (code, codes(report)) == (1, [("LA102", "text", "error")])


def test_policy_direct_is_obeyed_and_contradicted(run):
    code, report = run("--policy", "direct")
    assert code == 1
    assert ("LA102", "text", "error") in codes(report)
    assert report["decision"]["text"]["pairing"] == "direct"
    assert not report["decision"]["text"]["verified"]
    assert any("policy direct was asked for" in note for note in report["notes"])


def test_ignored_findings_are_skipped_not_passed(run):
    code, report = run(*loss("seed_after_fix"), "--ignore", "LA102")
    assert (code, report["findings"]) == (0, [])
    assert statuses(report)["pairing-text"] == "skip"


def test_the_command_line_of_the_seed_document(run, tmp_path):
    narrow_model(hidden=16, layers=1).save_pretrained(tmp_path / "base")
    code, report = run(
        *("--train_manifest", str(CHATML / "speech.jsonl"), "--output_dir", str(tmp_path / "output")),
        *("--base_ckpt", str(tmp_path / "base"), "--batch_size", "2", "--lr", "2e-4", "--epochs", "2"),
        *("--grad_accum", "8", "--lora_r", "16", "--lora_alpha", "32", "--lora_dropout", "0.05"),
    )
    assert code == 0
    assert {c["id"]: c["status"] for c in report["checks"]}["peft"] == "pass"
    ignored = "--lr 2e-4, --epochs 2, --grad_accum 8, --output_dir "
    assert any(note.startswith(f"ignored, as they change no alignment: {ignored}") for note in report["notes"])
    assert not (tmp_path / "output").exists()


def test_strict_makes_warnings_errors(run):
    assert run("--labels", "pre-shifted", "--strict")[0] == 1
    assert run("--labels", "pre-shifted", "--strict", "missing-target")[0] == 1
    assert run("--labels", "pre-shifted", "--strict", "LA202")[0] == 0


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.deep)])
def test_half_precision(run, dtype):
    code, report = run("--dtype", dtype)
    assert (code, report["findings"]) == (0, [])
    code, report = run("--dtype", dtype, *loss("seed_after_fix"))
    assert (code, codes(report)) == (1, [("LA102", "text", "error")])


def test_the_model_is_afterwards_as_before():
    model, adapter = narrow_model(), HiggsAdapter()
    model.audio_decoder_proj.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    report = preflight(Plan(model, adapter, narrow_batch(2, length=96)))
    assert report.verdict == "pass"
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None and param.requires_grad for param in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_log_says_which_path_was_taken(caplog):
    model = small_model()
    batch = barcoded_batch(2, length=96)
    with caplog.at_level(logging.INFO, logger="alignment"), torch.no_grad():
        dual_loss(model(**batch), batch)
        unlabelled = {key: value for key, value in batch.items() if key != "label_ids"}
        dual_loss(model(**unlabelled), batch)
    assert "expanded path" in caplog.text
    assert "fallback path" in caplog.text
    assert "Text logits shape: (2, 96, 128256)" in caplog.text


def test_a_model_that_loses_a_row_fails_the_length_check(monkeypatch):
    model, adapter = narrow_model(), HiggsAdapter()
    forward = type(model).forward

    def shortened(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        if out.expanded_labels is not None:
            out.expanded_labels = out.expanded_labels.roll(1, dims=1)
        return out

    monkeypatch.setattr(type(model), "forward", shortened)
    report = preflight(Plan(model, adapter, narrow_batch(2, length=96)))
    assert report.check("text-length").status == "fail"
    assert "differ from the reference expansion" in report.check("text-length").detail


def test_a_model_with_broken_weights_fails_its_losses():
    model, adapter = narrow_model(), HiggsAdapter()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    report = preflight(Plan(model, adapter, narrow_batch(2, length=96)))
    assert report.verdict == "fail"
    assert {f.code for f in report.findings} == {"LA501"}
    assert report.check("text-loss").status == "fail"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_on_an_accelerator(wide, dtype):
    code, report = wide("--device", "cuda", "--dtype", dtype)
    assert (code, report["findings"]) == (0, [])
    assert report["environment"]["device"].startswith("cuda")
    code, report = wide("--device", "cuda", "--dtype", dtype, *loss("seed_after_fix"))
    assert (code, codes(report)) == (1, [("LA102", "text", "error")])
