"""Suggestions: only for what slices, rolls and pads have made, each run before it is made, and nothing written."""

import ast
from html import unescape
from pathlib import Path

import pytest
import test_named_lines as losses
from lm_tiny import tiny_model

from loss_align import main
from probes import check_loss
from probes.line.edits import edits_of
from probes.line.suggestion import suggestion
from probes.report import html, junit, markdown


@pytest.fixture(scope="module")
def model():
    return tiny_model("LlamaForCausalLM")


def patch_of(model, loss):
    return check_loss(model, losses.batch_of(), loss, replay=False, diff=True).patch


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (losses.copied, 'mean(logits_of(model, batch)[:, :-1], batch["labels"][:, 1:])'),
        (losses.cut_on_both_sides, 'logits, labels = logits_of(model, batch)[:, :-1], batch["labels"][:, 1:]'),
        (losses.shifted_twice, 'labels = batch["labels"]'),
        (losses.shifted_on_the_wrong_side, 'logits_of(model, batch)[:, :-1], batch["labels"][:, 1:]'),
        (losses.cut_on_one_side, "F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_the_line_that_mends_it_is_found(model, loss, line):
    before = Path(losses.__file__).read_text(encoding="utf-8")
    taken, put = (
        [one for one in patch_of(model, loss).splitlines() if one[:1] == sign != one[1:2]] for sign in ("-", "+")
    )
    assert (len(taken), len(put)) == (1, 1)
    assert line in put[0]
    assert taken[0][1:] in before.splitlines()
    assert Path(losses.__file__).read_text(encoding="utf-8") == before


@pytest.mark.parametrize("loss", [losses.end_masked, losses.cut_off, losses.right], ids=lambda loss: loss.__name__)
def test_nothing_is_suggested_where_no_slice_is_at_fault(model, loss):
    assert not patch_of(model, loss)


def test_nothing_is_suggested_that_does_not_pass(model):
    found = check_loss(model, losses.batch_of(), losses.copied, replay=False).findings
    assert suggestion(found, losses.copied, lambda _: False) is None


def edited(line):
    return list(edits_of(ast.parse(line), 1, line))


def test_a_roll_is_left_out():
    assert edited("y = labels.roll(-1, 1)")[0] == "y = labels"


def test_a_view_behind_a_slice_is_a_reshape():
    assert "f(x[:, :-1].reshape(-1, 3), y[:, 1:].reshape(-1))" in edited("f(x.view(-1, 3), y.view(-1))")


def test_letters_before_it_move_no_column():
    assert "é, y = z, labels[:, 1:]" in edited("é, y = z, labels[:, 2:]")


LOSS = """import torch.nn.functional as F


def loss(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
"""


PUT = '+    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())'


def test_a_patch_stands_in_every_form_of_the_report(model):
    report = check_loss(model, losses.batch_of(), losses.copied, replay=False, diff=True)
    put = next(line for line in report.patch.splitlines() if line.startswith("+    "))
    assert report.as_dict()["patch"] == report.patch
    for text in (str(report), markdown.render(report), html.render(report), junit.render(report)):
        assert put in unescape(text)
    unasked = check_loss(model, losses.batch_of(), losses.copied, replay=False)
    assert (unasked.patch, "patch" in unasked.as_dict()) == ("", False)


def test_the_command_prints_a_patch(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "trainer.py").write_text(LOSS)
    assert main(["preflight", "--model", "model", "--loss", "trainer.py:loss", "--diff", "--replay", "none"]) == 1
    told = capsys.readouterr().out
    assert f"\n{PUT}\n" in told
    assert "the verdict is PASS" in " ".join(told.split())
    assert (tmp_path / "trainer.py").read_text() == LOSS
