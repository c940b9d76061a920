"""``[tool.loss-align]``: words of the command line that a project keeps, found upward; what is typed wins."""

import json

import pytest

from loss_align import main
from probes.commands.cli import build_parser
from probes.commands.defaults import default_words
from probes.errors import UsageError


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The words that a pyproject.toml adds to a command line typed in its folder, or below it."""

    def words(text, *argv, below="."):
        (tmp_path / "pyproject.toml").write_text(text)
        folder = tmp_path / below
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        return default_words(argv or ("preflight",), build_parser().get_default("parsers"))[0]

    return words


EVERY_KIND = """
[tool.loss-align]
strict = true
ignore = ["LA301", "LA802:text"]
head = ["one", "two"]
batch-size = 4
diff = false
[tool.loss-align.run]
steps = 3
stop = true
"""


def test_values_of_every_kind(added):
    shared = ["--strict=all", "--ignore=LA301,LA802:text", "--head=one", "--head=two"]
    assert added(EVERY_KIND) == [*shared, "--batch-size=4"]
    assert added(EVERY_KIND, "run", "train.py") == [*shared, "--steps=3", "--stop"]
    assert added(EVERY_KIND, "rules") == added(EVERY_KIND, "--version") == []


def test_what_is_typed_wins(added):
    assert added(EVERY_KIND, "run", "--head", "mine", "--steps=1", "train.py") == [
        "--strict=all",
        "--ignore=LA301,LA802:text",
        "--stop",
    ]


def test_the_nearest_table_counts_and_its_paths_are_told_from_its_own_folder(added, tmp_path):
    (tmp_path / "trainer.py").touch()
    text = '[tool.loss-align]\nloss = "trainer.py:loss"\nmodel = "org/name"\njson = "report.json"\n'
    assert added(text) == ["--loss=trainer.py:loss", "--model=org/name", "--json=report.json"]
    below = ["--loss=../trainer.py:loss", "--model=org/name", "--json=../report.json"]
    assert added(text, below="inside") == below
    (tmp_path / "inside" / "pyproject.toml").write_text("[tool.other]\nloss = 1\n")
    assert added(text, below="inside") == below


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batchsize = 4", r"\[tool.loss-align\]: 'batchsize' is no option; the nearest is 'batch-size'"),
        ("lr = 4", r"'lr' is no option; the nearest is"),
        ("[tool.loss-align.preflihgt]\n", "'preflihgt' is no command .* the nearest is 'preflight'"),
        ("[tool.loss-align.run]\nbatch-size = 4", r"run\]: 'batch-size' is no option of loss-align run"),
        ("batch-size = 0", r"\[tool.loss-align\]: batch-size: 0 is less than 1"),
        ("batch-size = [1, 2]", "is a list, and --batch-size takes one value"),
        ("reduction = 'mean'", "reduction is 'mean': choose one of token-mean, sequence-mean, sum"),
        ("verbose = 1", "is a switch: write true or false"),
        ("loss = true", "is True, which is no value of --loss"),
        ("loss = ", "pyproject.toml: cannot be read"),
    ],
)
def test_what_it_cannot_mean_is_one_error(added, text, told):
    with pytest.raises(UsageError, match=told):
        added(f"[tool.loss-align]\n{text}\n")


def test_a_command_says_what_it_took_and_an_error_ends_it(tmp_path, monkeypatch, capsys):
    samples = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
    (tmp_path / "train.json").write_text(json.dumps(samples))
    (tmp_path / "pyproject.toml").write_text('[tool.loss-align]\njson = "out.json"\nignore = "LA207"\n')
    monkeypatch.chdir(tmp_path)
    main(["data", "train.json", "--workers", "1"])
    report = json.loads((tmp_path / "out.json").read_text())
    assert "defaults of pyproject.toml: --json=out.json --ignore=LA207" in report["notes"]
    (tmp_path / "pyproject.toml").write_text('[tool.loss-align]\njsn = "out.json"\n')
    capsys.readouterr()
    assert main(["data", "train.json"]) == 2
    assert "loss-align: pyproject.toml: [tool.loss-align]: 'jsn' is no option" in capsys.readouterr().err
    assert main(["rules", "LA102"]) == 0


def test_a_working_directory_that_is_gone_adds_nothing(added, tmp_path):
    (tmp_path / "gone").mkdir()
    parsers = build_parser().get_default("parsers")
    added(EVERY_KIND, below="gone")
    (tmp_path / "gone").rmdir()
    assert default_words(["preflight"], parsers) == ([], "")
