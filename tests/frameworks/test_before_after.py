"""The machinery of the before-and-after table; the table itself installs releases, and is run by its command."""

import re
import subprocess
import sys
from pathlib import Path

import before_after
import pytest
from before_after_rows import ROWS
from packaging.version import Version

ROOT = Path(__file__).parents[2]
GALLERY = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("LA103 double-shift (38 rows): ...\nfail offsets: {'2': 36}\n", ("fail", ("LA103",))),
        ("pass offsets: {'1': 38}\n", ("pass", ())),
        ("PASS: explained\nFAIL: explained\nLA302 one\nLA302 two\nFAIL: 1 error; 52 targets\n", ("fail", ("LA302",))),
        ("Traceback of LA103\n", ("", ())),
    ],
)
def test_what_a_script_has_printed_is_read(printed, said):
    assert before_after.read(printed) == said


def test_rows_are_chosen_by_package_and_bug():
    assert {row.package for row in before_after.rows(["peft"])} == {"peft"}
    assert [row.bug for row in before_after.rows(["Moonshine"])] == ["Moonshine shifts twice"]
    assert before_after.rows() == list(ROWS)
    assert before_after.rows(["no such bug"]) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.package}: {row.bug}")
def test_a_row_is_of_two_releases_and_stands_in_the_gallery(row):
    assert Version(row.before) < Version(row.after)
    assert row.links
    assert (ROOT / "fixtures" / "gallery" / row.script.split()[0]).is_file()
    assert before_after.line(row, before_after.Said("fail", (row.code,)), before_after.Said("pass")) in GALLERY


def test_the_gallery_shows_no_row_that_is_gone():
    assert len(re.findall(r"^\| \w+ \| .* \| pass \| \[#", GALLERY, flags=re.MULTILINE)) == len(ROWS) >= 8


def release(folder, name, *requires):
    """A folder as pip makes one of a release."""
    at = folder / name
    about = at / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    said = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
    (about / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *said, ""]), encoding="utf-8")
    return at


def test_only_what_this_environment_lacks_is_installed_beside_a_release_and_never_torch(tmp_path):
    at = release(
        tmp_path, "one", "packaging>=20", "packaging<1", "torch<1", "two>=3; extra == 'more'", "no-such-one>=2"
    )
    assert list(before_after.unmet(at)) == ["packaging<1", "no-such-one>=2"]


def test_a_row_that_does_not_turn_fails_the_command(monkeypatch, capsys):
    monkeypatch.setattr(before_after, "judged", lambda row, version, folder: (before_after.Said("pass"), "shown"))
    assert before_after.main(["Moonshine"]) == 1
    told = capsys.readouterr()
    assert "0 of 1 rows turn" in told.out
    assert "shown" in told.err


def test_a_row_that_turns_is_told_with_its_issues(monkeypatch, capsys):
    def judged(row, version, folder):
        said = before_after.Said("fail", (row.code,)) if version == row.before else before_after.Said("pass")
        return said, ""

    monkeypatch.setattr(before_after, "judged", judged)
    assert before_after.main(["Moonshine"]) == 0
    told = capsys.readouterr().out
    assert "| fail LA103 | 5.13.0 | pass | [#46784](" in told
    assert "1 of 1 rows turn" in told


def test_a_package_that_is_hidden_is_not_there_for_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import importlib.util, sys\nprint(importlib.util.find_spec('json'), sys.argv[1:])\n")
    command = [sys.executable, "-S", "-c", before_after.APART, "json", str(script), "word"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None ['word']\n"


def test_a_door_that_does_not_hold_fails_its_command(monkeypatch, capsys):
    import plugin_doors

    said = {False: "pass trained", True: "fail LA208 ended"}
    monkeypatch.setattr(plugin_doors, "told", lambda door, bad, folder: (said[bad], "shown"))
    assert plugin_doors.main(["llamafactory"]) == 0
    assert plugin_doors.main(["axolotl"]) == 1  # its fault is another
    assert "fail LA103 ended is due" in capsys.readouterr().err
