"""What data may do to a terminal: nothing."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from loss_align import main
from probes.host.files import as_json
from probes.host.printable import capped, printable
from probes.report.terminal import SafeConsole

BELL, CLEAR, BACK, RIGHT_TO_LEFT, HALF = "\x07", "\x1b[2J", "\x9b2J", "\u202e", "\ud800"
HOSTILE = [BELL, CLEAR, BACK, RIGHT_TO_LEFT, HALF, "\r", "\x00", "\u2028"]
IDS = [repr(text) for text in HOSTILE]


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_what_a_terminal_would_act_upon_is_written_out(text):
    told = printable(f"a{text}b")
    assert told.isprintable()
    assert "\\" in told


@pytest.mark.parametrize("text", ["plain", "two\nlines", "héllo, 你好 🎧", "[bold]x[/]"])
def test_text_that_does_no_harm_is_left_as_it_is(text):
    assert printable(text) == text


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_can_be_written_and_moves_no_cursor(text):
    told = printable(text)
    told.encode("utf-8")
    assert not any(ord(letter) < 32 and letter != "\n" for letter in told)
    assert "\x1b" not in told
    assert "\x9b" not in told


def test_a_long_text_says_how_much_of_it_is_missing():
    assert capped("x" * 100_000, 10) == "xxxxxxxxxx… (99,990 more characters)"
    assert capped("short") == "short"


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_a_console_obeys_its_own_style_and_no_text(text):
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=80, highlight=False, color_system="standard")
    console.print(Text(f"a{text}b", style="red"))
    shown = out.getvalue().replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert printable(shown) == shown


def test_the_plain_console_of_rich_would_have_obeyed_it():
    from rich.console import Console

    out = io.StringIO()
    Console(file=out).print(Text(f"a{CLEAR}b"))
    assert CLEAR in out.getvalue()


@given(st.text(alphabet=st.characters(codec=None)))
def test_json_holds_any_text_and_shows_no_control(text):
    written = as_json({"text": text})
    written.encode("utf-8")
    assert json.loads(written) == {"text": text}
    assert printable(written) == written


@pytest.mark.parametrize("text", [CLEAR, BACK, "\r"], ids=repr)
def test_an_error_on_the_command_line_is_safe(text, capsys):
    assert main(["preflight", "--model", f"no{text}where"]) == 2
    told = capsys.readouterr().err.rstrip("\n")
    assert printable(told) == told
    assert "where" in told


def test_the_text_of_an_exception_is_capped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "loss.py").write_text("raise ValueError('x' * 100_000)\n")
    assert main(["preflight", "--loss", f"{tmp_path}/loss.py:loss"]) == 2
    assert len(capsys.readouterr().err) < 6000
