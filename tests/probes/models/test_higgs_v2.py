"""transformers' own Higgs v2: its streams, its own loss, its defects by one command each."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import higgs_batch, higgs_model
from narrow import narrow_default

from alignment import InputError
from loss_align import main
from probes import check_loss
from probes.batches.barcoded import hand_labels
from probes.checks.preflight import Plan, preflight
from probes.fuzzing import grid
from probes.models import HiggsAudioV2Adapter, adapter_for
from probes.models.forward import forward
from probes.models.higgs_v2 import SPECIAL_IDS_V2
from probes.models.loading import load_model

pytestmark = [pytest.mark.higgs_v2, pytest.mark.usefixtures("no_lines")]

ROOT = Path(__file__).parents[3]
TRAINER = ROOT / "fixtures" / "trainers" / "higgs_v2.py"
STEP = ("--grad-accum", "2", "--reduction", "token-mean")
AUDIO, DELAY = SPECIAL_IDS_V2["<|AUDIO_OUT|>"], SPECIAL_IDS_V2["<|reserved_special_token_6|>"]


@pytest.fixture(scope="module")
def model():
    """Of a narrow vocabulary; ``published`` is asked where ids are named."""
    return higgs_model("higgs_v2", hidden=32, layers=1)


@pytest.fixture(scope="module")
def batch(model):
    return higgs_batch(model)


@pytest.fixture(scope="module")
def published():
    return higgs_model("higgs_v2", wide=True, hidden=32, layers=1)


def own_loss(model, batch):
    return model(**batch).loss


def said(report):
    return {(f.code, f.stream) for f in report.findings}


def through(command, tmp_path, *options):
    """Exit code and JSON report of a command."""
    path = tmp_path / "report.json"
    code = main([command, "--json", str(path), *options])
    return code, json.loads(path.read_text())


# -- the command ------------------------------------------------------------------------------------


def test_the_default_run_passes_every_check(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.models.higgs.why_unavailable", lambda: "not here")
    code, report = through("preflight", tmp_path, "--length", "96")
    assert (code, report["findings"], report["environment"]["model"]) == (
        0,
        [],
        "HiggsAudioV2ForConditionalGeneration (small, random weights)",
    )
    status = {check["id"]: check["status"] for check in report["checks"]}
    assert status.pop("fallback-path") == "skip"  # it expands nothing
    assert set(status.values()) == {"pass"}
    assert {"text-loss", "audio-loss", "causality", "decode", "labels-received"} <= set(status)
    assert len(report["streams"]) == 9
    for stream in report["streams"].values():
        assert stream["offsets"] == {"1": stream["expected"]}


@pytest.mark.parametrize(
    ("loss", "options", "finding"),
    [("as_trainer_calls", STEP, ["LA302", "audio"]), ("shift_labels_given", (), ["LA107", "audio"])],
)
def test_its_defects_by_one_command(tmp_path, loss, options, finding, monkeypatch):
    narrow_default(monkeypatch)
    code, report = through("preflight", tmp_path, "--length", "96", "--loss", f"{TRAINER}:{loss}", *options)
    assert (code, [[f["code"], f["stream"]] for f in report["findings"]]) == (1, [finding])


@pytest.mark.deep
def test_a_record_is_compared_with_itself(tmp_path):
    assert main(["record", "--length", "96", "--out", str(tmp_path / "base.json")]) == 0
    code, report = through("preflight", tmp_path, "--length", "96", "--baseline", str(tmp_path / "base.json"))
    assert (code, report["findings"]) == (0, [])


def test_explain_shows_frames_where_they_stand(tmp_path, monkeypatch):
    narrow_default(monkeypatch)
    code, report = through("explain", tmp_path, "--length", "96", "--stream", "audio[0]")
    rows = report["rows"]["audio[0]"]
    assert (code, len(rows)) == (0, 96)
    right = [row for row in rows if row["verdict"] == "right"]
    assert {row["offset"] for row in right} == {1}
    assert all(row["expected"] == row["target"] == rows[row["row"] + 1]["token"] for row in right)


def test_the_grid_runs_on_it(tmp_path, monkeypatch, capsys):
    cases = [grid.Case(2, 3, references, targets, labels=True) for references in (0, 2) for targets in (0, 1)]
    monkeypatch.setattr(grid, "default_grid", lambda: iter(cases))
    assert main(["probe", "--out", str(tmp_path / "record.json")]) == 0
    assert "4 cases, 0 with a problem" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "record.json").read_text())["cases"]
    assert recorded["b2-t3-r2-a1-labels"]["shapes"]["audio_logits"][1:] == [8, 1026]
    assert recorded["b2-t3-r2-a1-labels"]["audio"]["pairing"] == "shifted"
    assert recorded["b2-t3-r2-a0-labels"]["valid_tokens"]["audio"] == 0


# -- the streams ------------------------------------------------------------------------------------


def test_each_frame_stands_at_its_placeholder(published):
    batch = higgs_batch(published)
    text, *books = HiggsAudioV2Adapter(published).view(published, batch).streams
    frame = (batch["input_ids"] == AUDIO) | (batch["input_ids"] == DELAY)
    assert torch.equal(text.filler, frame.reshape(-1))
    codes = torch.stack([book.ids for book in books], dim=-1)
    assert torch.equal(codes[text.filler], batch["audio_input_ids"][batch["audio_input_ids_mask"]])
    assert bool((codes[~text.filler] == -1).all())


def test_the_row_before_an_audio_belongs_to_it_and_the_end_of_the_one_before_does_not(published):
    ids = torch.tensor([[5, AUDIO, *[DELAY] * 7, AUDIO, *[DELAY] * 7, 6, 7, AUDIO, *[DELAY] * 7, 8]])
    batch = {"input_ids": ids, "audio_input_ids": torch.arange(24 * 8).reshape(1, 24, 8)}
    segment = HiggsAudioV2Adapter(published).view(published, batch).streams[1].segment
    assert segment.tolist() == [0] * 9 + [1] * 8 + [2] * 10 + [3]


def test_filling_of_the_delay_pattern_is_no_target_and_each_first_eos_is(model, batch):
    view = HiggsAudioV2Adapter(model).view(model, batch)
    for book in view.streams[1:]:
        ends = (book.ids == 1025) & ~book.filler
        assert int(ends.sum()) == 6  # three audios in each of two samples
        assert bool(book.filler[book.ids == 1024].all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "no input_ids"),
        ({"audio_input_ids_mask": torch.ones(2, 9, dtype=torch.bool)}, "they must be"),
        ({"audio_input_ids": torch.zeros(2, 3, 8).long(), "audio_input_ids_mask": None}, "one placeholder per frame"),
        ({"labels": torch.zeros(2, 9).long()}, "they must agree"),
    ],
    ids=["no ids", "mask", "frames", "labels"],
)
def test_a_batch_that_does_not_fit_is_refused(model, batch, change, message):
    with pytest.raises(InputError, match=message):
        HiggsAudioV2Adapter(model).view(model, {**batch, **change})


def test_codes_of_other_codebooks_are_refused(model, batch):
    fewer = {"audio_input_ids": batch["audio_input_ids"][:, :, :4]}
    with pytest.raises(InputError, match="has 4 codebooks, the configuration 8"):
        HiggsAudioV2Adapter(model).check_batch(model, {**batch, **fewer})


# -- losses -----------------------------------------------------------------------------------------


def test_its_own_loss_is_right_on_its_published_vocabulary(published):
    assert check_loss(published, higgs_batch(published), own_loss).findings == []


def test_its_own_loss_is_right_wherever_the_padding_is(model, batch):
    assert check_loss(model, batch, own_loss).findings == []
    beside = ("input_ids", "attention_mask", "labels")
    left = {**batch, **{key: torch.stack([batch[key][0], batch[key][1].roll(3)]) for key in beside}}
    assert left["attention_mask"][1, :4].tolist() == [0, 0, 0, 1]
    report = check_loss(model, left, own_loss)
    assert report.findings == []
    assert report.streams["audio[3]"]["offsets"] == {"1": 22}


def audio_logits(model, batch):
    """(B, T, K, C) logits and (B, T, K) labels of the frames."""
    logits = model(**{key: value for key, value in batch.items() if "labels" not in key}).logits
    labels = batch["input_ids"].new_full((*batch["input_ids"].shape, 8), -100)
    ids = model.config.audio_token_id, model.config.audio_delay_token_id
    labels[torch.isin(batch["input_ids"], torch.tensor(ids))] = batch["audio_labels"][batch["audio_input_ids_mask"]]
    return logits.unflatten(-1, (8, -1)), labels


def audio_copy(model, batch):
    logits, labels = audio_logits(model, batch)
    return F.cross_entropy(logits.flatten(0, 2), labels.flatten())


def codebooks_turned(model, batch):
    return model(**{**batch, "audio_labels": batch["audio_labels"].roll(1, dims=-1)}).loss


def audio_shifted_twice(model, batch):
    labels = F.pad(batch["audio_labels"], (0, 0, 0, 1), value=-100)[:, 1:]
    return model(**{**batch, "audio_labels": labels}).loss


def everything_labelled(model, batch):
    return model(**{**batch, "audio_labels": batch["audio_input_ids"]}).loss


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (audio_copy, {("LA205", "text"), ("LA102", "audio")}),
        (codebooks_turned, {("LA106", "audio")}),
        (audio_shifted_twice, {("LA103", "audio")}),
        (everything_labelled, {("LA202", "audio")}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_planted_faults_around_its_own_loss(model, batch, loss, found):
    assert said(check_loss(model, batch, loss)) == found


def test_labels_shifted_beforehand_are_shifted_twice_by_the_model(model, batch):
    text = hand_labels(batch, "pre-shifted", key="labels")
    assert said(check_loss(model, text, own_loss)) == {("LA103", "text")}
    audio = {**batch, "audio_labels": F.pad(batch["audio_labels"], (0, 0, 0, 1), value=-100)[:, 1:]}
    assert said(check_loss(model, audio, own_loss)) == {("LA103", "audio")}


def test_a_batch_without_audio_targets_makes_its_own_loss_nan(model, batch):
    silent = {**batch, "audio_labels": torch.full_like(batch["audio_labels"], -100)}
    assert said(check_loss(model, silent, own_loss)) == {("LA501", "all")}


def test_a_compiled_model_is_the_same_model(model, batch):
    compiled = torch.compile(model, backend="eager")
    assert isinstance(adapter_for(compiled), HiggsAudioV2Adapter)
    assert check_loss(compiled, batch, own_loss).findings == []


# -- without a text head ----------------------------------------------------------------------------


def products(module, run):
    """How often a module runs in a function."""
    seen = []
    handle = module.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[:-1].numel()))
    try:
        run()
    finally:
        handle.remove()
    return seen


def test_text_logits_are_made_once_with_labels_and_once_for_all_steps_of_a_decoding(model, batch):
    adapter = adapter_for(model)
    given = forward(model, adapter, batch)
    assert torch.equal(given.logits, forward(model, adapter, batch, labels=False).logits)
    rows = batch["input_ids"].numel()
    assert products(model.text_lm_head, lambda: forward(model, adapter, batch)) == [rows]
    sample = adapter.split(model, batch)[0]
    with torch.no_grad():
        steps = []
        made = products(model.text_lm_head, lambda: steps.extend(adapter.decode(model, sample, 8)))
    assert made == [sum(step.kind == "text" for step in steps)]


@pytest.fixture(scope="module")
def headless():
    return higgs_model("higgs_v2", use_text_head=False)


def test_without_a_text_head_audio_alone_is_judged_and_the_report_says_so(headless, batch):
    report = preflight(Plan(headless, HiggsAudioV2Adapter(headless), batch))
    assert (report.verdict, report.findings) == ("pass", [])
    assert (report.check("text-length").status, report.check("pairing-text").status) == ("skip", "skip")
    assert (
        report.check("decode").status == report.check("causality").status == report.check("audio-loss").status == "pass"
    )
    assert any("no text head" in note for note in report.notes)
    assert {name: stream["expected"] for name, stream in report.streams.items()}["text"] == 0
    assert said(check_loss(headless, batch, audio_copy)) == {("LA102", "audio")}


def test_without_a_text_head_the_trainers_count_is_still_that_of_the_text(headless, batch):
    def counted(model, batch, num_items_in_batch):
        counts.append(int(num_items_in_batch))
        return model(**batch, num_items_in_batch=num_items_in_batch).loss

    counts = []
    report = check_loss(headless, batch, counted, grad_accum=2, reduction="token-mean")
    assert said(report) == {("LA302", "audio")}
    assert counts[0] == int((batch["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize("head", [True, False])
def test_a_checkpoint_is_loaded_with_the_heads_that_it_has(tmp_path, head):
    higgs_model("higgs_v2", wide=True, hidden=16, layers=1, use_text_head=head).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device=torch.device("cpu"), dtype=None, seed=0)
    assert (loaded.model.text_lm_head is not None, loaded.random_init) == (head, False)
    assert loaded.model.training


# -- through the Trainer ----------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_trainer_itself_hands_on_a_count_of_text_alone(batch, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = higgs_model("higgs_v2", hidden=16, layers=1)
    options = {"output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "disable_tqdm": True}
    trainer = Trainer(model=model, args=TrainingArguments(**options))
    parts = adapter_for(model).split(model, batch)
    counted = int(trainer._get_num_items_in_batch(parts, torch.device("cpu")))
    assert counted == int((batch["labels"][:, 1:] != -100).sum())

    def as_the_trainer(model, batch, num_items_in_batch):
        assert int(num_items_in_batch) in {counted, *(int((p["labels"][:, 1:] != -100).sum()) for p in parts)}
        return trainer.compute_loss(model, dict(batch), num_items_in_batch=num_items_in_batch)

    report = check_loss(model, batch, as_the_trainer, grad_accum=2, reduction="token-mean")
    assert said(report) == {("LA302", "audio")}
    assert re.search("10 targets add up to .* 12 targets add up to", report.findings[0].message)
