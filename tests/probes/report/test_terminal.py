"""The report as text: the width it follows, lines that hang, a verdict that names what failed."""

import subprocess
import sys
from io import StringIO

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama
from rich.console import Console
from rich.text import Text

from alignment import Convention, Finding, InputError
from alignment.findings import finding
from alignment.wording import counted
from loss_align import main
from probes import AlignmentCallback, UsageError, check_loss
from probes.batches.barcoded import hand_labels
from probes.checks.preflight import Plan
from probes.commands.cli import build_parser
from probes.models import adapter_for
from probes.models.adapter import labels_as
from probes.report import Check, Report
from probes.report.layout import hanging, plain_console, width_of
from probes.report.terminal import as_text, show

IDS = torch.arange(3, 43).view(2, 20)
BATCH = {"input_ids": IDS, "labels": IDS}


@pytest.fixture(scope="module")
def model():
    return llama()


def right(model, batch):
    return model(**batch).loss


def copy(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())


def unequal(model, batch):
    return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"].flatten())


def constant(model, batch):
    return 1.0


def no_gradient(model, batch):
    return model(**batch).logits.sum() * 0


def missing(model, batch):
    return F.cross_entropy(model(**batch).logits[:, 3], batch["labels"][:, 4])


FAULTS = [copy, unequal, constant, no_gradient, missing]


# ------------------------------------------------------------------------------ the page


def test_a_pipe_is_as_wide_as_columns_says_and_120_otherwise(monkeypatch):
    for told, width in (("70", 70), ("", 120), ("0", 120), ("wide", 120), ("\N{SUPERSCRIPT TWO}", 120)):
        monkeypatch.setenv("COLUMNS", told)
        assert width_of(StringIO()) == width
    monkeypatch.delenv("COLUMNS")
    assert width_of(StringIO()) == 120


def test_a_terminal_is_as_wide_as_it_is(monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    assert width_of(screen) is None


@pytest.mark.parametrize("width", [48, 70, 100])
@pytest.mark.parametrize("loss", [right, *FAULTS], ids=lambda loss: loss.__name__)
def test_no_line_is_padded_or_too_long(model, loss, width):
    lines = as_text(check_loss(model, BATCH, loss), width).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert max(map(len, lines)) <= width


def test_a_terminal_keeps_its_colours():
    screen = Console(file=StringIO(), force_terminal=True, width=60, color_system="standard")
    show(Report(checks=[Check("text-loss", "Loss", "fail", "nan")]), screen)
    assert "\x1b[1;31mFAIL" in screen.file.getvalue()


@pytest.mark.parametrize(("lead", "indent", "at"), [("note: ", 0, 6), ("fix: ", 2, 7), ("", 2, 2), ("", 0, 2)])
def test_lines_of_a_paragraph_stand_below_its_first(lead, indent, at):
    file = StringIO()
    plain_console(file, 30).print(hanging(Text("said " * 20), lead, indent=indent))
    first, *later = file.getvalue().splitlines()
    assert first.startswith(" " * indent + lead + "said")
    assert later
    assert {len(line) - len(line.lstrip()) for line in later} == {at}


def test_a_finding_hangs_below_its_title(model):
    lines = as_text(check_loss(model, BATCH, copy), 60).splitlines()
    said = lines[lines.index("LA102 copy-objective error on text (loss against the") + 1 :]
    assert said[: said.index("")][0] == "  labels)"
    assert all(line.startswith("  ") for line in said[: said.index("")])


@pytest.mark.parametrize("command", [["rules"], ["rules", "LA102"]], ids=" ".join)
def test_the_catalogue_follows_columns_too(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "66")
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 66
    assert [line for line in lines if line != line.rstrip()] == []


# ------------------------------------------------------------------------------ the verdict


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (Report(checks=[Check("text-loss", "", "fail", "nan")]), "FAIL: text-loss failed"),
        (Report(checks=[Check("decode", "", "error", "raised")]), "ERROR: decode could not run"),
        (
            Report(checks=[Check("peft", "", "error", ""), Check("text-loss", "", "fail", "")]),
            "FAIL: text-loss failed, peft could not run",
        ),
        (
            Report(
                checks=[Check("text-loss", "", "fail", "")], findings=[Finding("LA301", "text", 1, "", "", "warning")]
            ),
            "FAIL: text-loss failed, 1 warning",
        ),
        (Report(error="no such file", stopped=2), "ERROR: no such file"),
        (Report(findings=[Finding("LA102", "text", 1, "", "", "error")]), "FAIL: 1 error"),
        (Report(), "PASS: no stream judged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_verdict_names_what_failed(report, line):
    assert as_text(report).splitlines()[-1] == line


# ------------------------------------------------------------------------------ print(report)


def test_a_report_prints_as_the_terminal_shows_it(model):
    report = check_loss(model, BATCH, copy)
    told = str(report)
    assert told == repr(report) == as_text(report).rstrip()
    assert "✗ pairing-text" in told
    assert told.splitlines()[-1] == "FAIL: 1 error; 40 targets in 1 stream, 1 head, causality"
    assert "Report(" not in told


def test_a_report_prints_where_only_its_data_is_loaded():
    code = (
        "import sys\nfrom probes.records.report import Check, Report\n"
        "print(Report(checks=[Check('text-loss', '', 'fail', 'nan')]))\nassert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "text-loss: fail: nan" in done.stdout


# ------------------------------------------------------------------------------ what it says


@pytest.mark.parametrize("loss", [right, *FAULTS], ids=lambda loss: loss.__name__)
def test_a_text_model_is_told_nothing_of_audio(model, loss):
    report = check_loss(model, BATCH, loss)
    assert "audio" not in str(report)
    assert "pairing-text" in {check.id for check in report.checks}


@pytest.mark.parametrize("loss", FAULTS, ids=lambda loss: loss.__name__)
def test_one_of_something_is_counted_as_one(model, loss):
    one = {"input_ids": IDS[:1, :6], "labels": IDS[:1, :6]}
    assert "(1 rows)" not in str(check_loss(model, one, loss))
    assert "(1 row)" not in str(check_loss(model, BATCH, unequal))  # LA101 counts lengths


def test_words_for_numbers():
    assert [counted(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert counted(2, "forward pass", "forward passes") == "2 forward passes"


def test_the_pairing_line_counts_what_it_says(model):
    labels = IDS.masked_fill(torch.arange(20) < 12, -100)

    def prompt_too(model, batch):
        return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())

    report = check_loss(model, {"input_ids": IDS, "labels": labels}, prompt_too)
    assert report.check("pairing-text").detail == "38 of 38 trained rows at offset +1, 16 of them expected"
    assert check_loss(model, BATCH, right).check("pairing-text").detail == "38 of 38 trained rows at offset +1"


# ------------------------------------------------------------------------------ words that are written in two ways


@pytest.mark.parametrize("labels", ["pre-shifted", "pre_shifted"])
def test_a_convention_is_taken_with_dashes_and_underscores_everywhere(model, labels):
    ahead = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}

    def direct(model, batch):
        return F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten())

    assert check_loss(model, ahead, direct, labels=labels).verdict == "pass"
    assert Convention(labels) is Convention.PRE_SHIFTED
    assert build_parser().parse_args(["preflight", "--labels", labels]).labels == "pre-shifted"
    assert build_parser().parse_args(["fuzz", "--labels", labels]).labels == "pre-shifted"
    assert Plan(model, adapter_for(model), {}, labels=labels).labels == "pre-shifted"
    assert torch.equal(hand_labels({"label_ids": IDS}, labels)["label_ids"][:, :-1], IDS[:, 1:])
    AlignmentCallback(labels=labels)


def test_a_convention_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="choose one of position_aligned, pre_shifted"):
        Convention("shifted-twice")
    with pytest.raises(UsageError, match="choose one of position-aligned, pre-shifted"):
        labels_as("shifted-twice")


def test_the_catalogue_says_which_error_may_be_a_warning(capsys):
    assert main(["rules", "--markdown"]) == 0
    assert "| swallowed-error | error, or warning |" in capsys.readouterr().out
    assert main(["rules", "LA605"]) == 0
    assert "When it is a warning instead" in capsys.readouterr().out


def test_the_fix_of_a_finding_is_that_of_its_stream():
    text, audio = (finding("LA102", stream, "").fix for stream in ("text", "audio[0], audio[1]"))
    assert "audio" not in text
    assert "audio_logits[:-1, k]" in audio
