"""Every fault on the real model has its own name and no other; correct code raises nothing."""

import copy
import re
import sys
from dataclasses import replace

import fault_matrix
import pytest
import torch
import torch.nn.functional as F
from fault_cases import CORRECT, FAULTS, TITLES, Case
from fault_matrix import FIXTURES, LENGTH, Outcome, batch_of, grid, load, model_for, run, short, table_of
from narrow import narrowed
from rich.console import Console

from probes import barcoded_batch, check_loss

FIRST = {id(next(case for case in FAULTS if case.fault == fault)) for fault in TITLES}
MARKS = {"llama": [], "higgs_v2": [pytest.mark.higgs_v2]}
#: Correct code that reads rows and weights in ways of its own, beside the plain one.
OWN_WAYS = ("correct:loss", "prepare", "class_weights", "linear_cross_entropy", "micro_batches", "z_loss")


def quick(case, size, dtype, source):
    """Every case at batch 2 in float32; those that stand for others at every size, dtype and source, two at a time.

    The first of each class: alone, and three samples: of ChatML in bfloat16, or fuzzed ones, one class as this and the
    next as that. Where there is one source, and of correct code: at every size, and in bfloat16.
    """
    half = dtype is torch.bfloat16
    if (size, half, source) == (2, False, "barcoded"):
        return True
    if case.fault and set(case.sources) >= {"chatml", "fuzzed"}:
        more = ("fuzzed", False) if case.fault % 2 else ("chatml", case.half)
        return id(case) in FIRST and (size, source, half) in {(1, "barcoded", False), (3, *more)}
    own_way = not case.fault and case.loss.endswith(OWN_WAYS)
    return source == "barcoded" and (id(case) in FIRST or own_way)


def replayed(case):
    """What it has read of its inputs is half of a check: asked of correct code, and of the first of each class."""
    return not case.fault or any((case.fault, case.loss) == (one.fault, one.loss) for one in FAULTS if id(one) in FIRST)


def params(*, deep):
    """The quick runs of the matrix; or all the rest, and those that are quick without their replay."""
    out = []
    for case, size, dtype, source in grid():
        if (not quick(case, size, dtype, source) or not replayed(case)) if deep else quick(case, size, dtype, source):
            name = f"{case}-{source}-{size}-{str(dtype).removeprefix('torch.')}"
            marks = MARKS.get(case.model, [pytest.mark.higgs])
            out.append(pytest.param(case, size, dtype, source, id=name, marks=marks))
    return out


def told(outcome):
    return f"{outcome.verdict}: {outcome.errors} {outcome.warnings}\n{outcome.messages}"


@pytest.mark.usefixtures("no_lines")
@pytest.mark.parametrize(("case", "size", "dtype", "source"), params(deep=False))
def test_a_fault_is_named_and_correct_code_is_silent(case, size, dtype, source):
    """Plain correct code alone and in bfloat16, and a third of the classes alone, on the published vocabulary."""
    plain = case.loss == "correct:loss" and not case.fault
    wide = plain and (size, dtype) in {(1, torch.float32), (2, torch.bfloat16)}
    wide |= size == 1 and case.fault > 0 and case.fault % 3 == 0
    outcome = run(case, size, dtype, source, narrow=not wide, replay=replayed(case))
    assert outcome.verdict == ("named" if case.fault else "silent"), told(outcome)


@pytest.mark.deep
@pytest.mark.parametrize(("case", "size", "dtype", "source"), params(deep=True))
def test_at_every_size_and_dtype(case, size, dtype, source):
    outcome = run(case, size, dtype, source)
    assert outcome.verdict == ("named" if case.fault else "silent"), told(outcome)


@pytest.mark.deep
@pytest.mark.higgs
@pytest.mark.parametrize("case", [c for c in (*FAULTS, *CORRECT) if c.model not in MARKS], ids=str)
def test_at_the_length_of_the_seed_document(case):
    outcome = run(case, source="seed document")
    assert outcome.verdict == ("named" if case.fault else "silent"), told(outcome)


@pytest.mark.deep
@pytest.mark.higgs
@pytest.mark.parametrize("case", [c for c in FAULTS if id(c) in FIRST and c.model == "higgs"], ids=str)
def test_under_lora(case):
    outcome = run(replace(case, model="lora"))
    assert outcome.verdict == "named", told(outcome)


# -- two faults are two findings --------------------------------------------------------------------

TEXT = {
    "LA102 text": lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()),
    "LA103 text": lambda x, y: F.cross_entropy(x[:, :-2].flatten(0, 1), y[:, 2:].flatten()),
    "LA205 text": lambda x, y: 0.0,
}
AUDIO = {
    "LA102 audio": lambda x, y: F.cross_entropy(x.permute(1, 2, 0), y),
    "LA106 audio": lambda x, y: F.cross_entropy(x[:-1].permute(1, 2, 0), y.flip(0)[:, 1:]),
    "LA205 audio": lambda x, y: F.cross_entropy(x[:-1, :3].permute(1, 2, 0), y[:3, 1:]),
}


@pytest.mark.higgs
@pytest.mark.usefixtures("no_lines")
@pytest.mark.parametrize("audio", AUDIO)
@pytest.mark.parametrize("text", TEXT)
def test_two_faults_are_two_findings(text, audio):
    def loss(model, batch):
        out = model(**batch)
        pairs = AUDIO[audio](out.audio_logits, batch["label_audio_ids"])
        return TEXT[text](out.logits, out.expanded_labels) + pairs

    batch = narrowed(barcoded_batch(2, length=LENGTH))
    report = check_loss(model_for("higgs", narrow=True), batch, loss, replay=False)
    assert {short(finding) for finding in report.findings} == {text, audio}


# -- what exactly is said ---------------------------------------------------------------------------


@pytest.mark.higgs
@pytest.mark.usefixtures("no_lines")
@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("seed_before_fix:loss", "LA101 text (1): .* 95 vs 96 "),
        ("one_side_trimmed:audio", "LA101 audio (1): .* 61 vs 62"),
        ("one_side_trimmed:own_check", "LA101 text (1): .* 95 vs 96 "),
        ("seed_after_fix:loss", "LA102 text (56): .* 56 of 56 "),
        ("copy_audio:loss", "LA102 audio (176): all 8 codebooks: .* 22 of 22 "),
        ("double_shift:audio", "LA103 audio (176): all 8 codebooks: .* 22 of 22 "),
        ("codebook_axis_shift:loss", "LA106 audio[0], .* audio[6] (154): 7 of 8 codebooks: "),
        ("codebook_weights:first_codebooks_only", "LA205 audio[7] (22): .* 22 "),
        ("text_skipped:loss", "LA205 text (56): .* 56 "),
        ("text_labels_on_audio:out_of_range", "LA107 audio (448): all 8 codebooks: .* 56 of 56 "),
        ("mask_shifted:too_far", "LA203 text (2): .* 2 rows"),
    ],
)
def test_the_message_counts(loss, said):
    case = next(case for case in FAULTS if case.loss == loss)
    pattern = re.escape(said).replace(re.escape(".*"), ".*")
    assert re.search(pattern, run(case, narrow=True, replay=False).messages)


@pytest.mark.higgs
@pytest.mark.parametrize("loss", ["copy_audio:labels_popped", "correct_calls:edits_in_place"])
def test_a_loss_that_edits_its_batch_leaves_the_users_batch_alone(loss):
    case = Case(loss)
    batch = batch_of(case, 2, narrow=True)
    before = copy.deepcopy(batch)
    check_loss(model_for("higgs", narrow=True), batch, load(loss))
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[key], before[key]) for key in batch)


# -- the matrix itself ------------------------------------------------------------------------------


def test_every_sample_trainer_has_its_case():
    files = {path.stem for path in (FIXTURES / "trainers").glob("*.py")}
    assert files == {case.file for case in (*FAULTS, *CORRECT)}


def test_every_class_has_its_case():
    assert {case.fault for case in FAULTS} == set(TITLES)


FAULT = Case("x:loss", ("LA102 text", "LA203 text"), fault=2)
WEIGHTS = Case("x:loss", warnings=("LA303 audio",), fault=17)
RIGHT = Case("x:loss", warnings=("LA301 text",))


@pytest.mark.parametrize(
    ("case", "errors", "warnings", "verdict"),
    [
        (FAULT, ("LA102 text", "LA203 text"), (), "named"),
        (FAULT, ("LA102 text",), (), "misnamed"),
        (FAULT, ("LA103 text",), (), "misnamed"),
        (FAULT, (), (), "missed"),
        (FAULT, ("LA102 text", "LA203 text", "LA205 audio"), (), "false alarm"),
        (FAULT, ("LA102 text", "LA203 text"), ("LA301 text",), "false alarm"),
        (WEIGHTS, (), ("LA303 audio",), "named"),
        (WEIGHTS, (), (), "missed"),
        (WEIGHTS, ("LA303 audio",), (), "misnamed"),
        (RIGHT, (), (), "silent"),
        (RIGHT, (), ("LA301 text",), "silent"),
        (RIGHT, (), ("LA301 audio",), "false alarm"),
        (RIGHT, ("LA301 text",), (), "false alarm"),
    ],
)
def test_the_verdict(case, errors, warnings, verdict):
    outcome = Outcome(case, errors, warnings, "")
    assert outcome.verdict == verdict
    assert table_of([outcome])[1] is (verdict in {"named", "silent"})


def test_correct_code_is_blind_where_its_case_says_so_alone():
    assert Outcome(RIGHT, (), (), "", blind=("LA802 text",)).verdict == "false alarm"
    taught = replace(RIGHT, blind=("LA802 text",))
    assert [Outcome(taught, (), (), "", blind).verdict for blind in (("LA802 text",), ())] == ["silent", "false alarm"]


def test_the_command_prints_the_table_and_exits_by_it(monkeypatch):
    console = Console(width=120, record=True)
    monkeypatch.setattr(fault_matrix, "Console", lambda: console)
    monkeypatch.setattr("sys.argv", ["fault_matrix"])
    packed = next(case for case in FAULTS if case.fault == 20)
    right = next(case for case in CORRECT if case.model == "llama")
    monkeypatch.setattr(
        fault_matrix, "grid", lambda: [(case, 2, torch.float32, "barcoded") for case in (packed, right)]
    )
    monkeypatch.setattr(sys, "argv", ["fault_matrix.py"])
    assert fault_matrix.main() == 0
    wrong = replace(packed, errors=("LA102 text",))
    monkeypatch.setattr(fault_matrix, "grid", lambda: [(wrong, 2, torch.float32, "barcoded")])
    assert fault_matrix.main() == 1
    text = " ".join(console.export_text().split())
    assert "20 │ packed documents │ LA204 text │ 1 │ 1 │ 0 │ 0 │ 0" in text
    assert "│ correct code │ nothing │ 1 │ 1 │ 0 │ 0 │ 0" in text
    assert "misnamed: 20-packed_documents" in text
