"""README and every page of docs/ tell the truth: their code runs, their commands parse, their links lead somewhere.

A page that is added is picked up by itself.
"""

import re
import shlex
from pathlib import Path

import pytest

from alignment import RULES
from loss_align import main
from probes.commands import COMMANDS
from probes.commands.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: A command, a line that says that what follows is an excerpt, and the excerpt.
EXCERPT = re.compile(r"```console\n(loss-align [^\n]*)\n```\n\n(An excerpt[^\n]*:)\n\n```text\n(.*?)```", re.DOTALL)
#: The released Higgs model is asked for by its losses.
RELEASED = "fixtures/trainers/"


def blocks(language):
    for page, text in TEXTS.items():
        for kind, body in BLOCK.findall(text):
            if kind == language:
                yield page, body


def python_blocks():
    for page, code in blocks("python"):
        yield pytest.param(page, code, id=f"{page} {code.strip().splitlines()[0]}")


def test_models_of_ones_own_are_declared_in_fewer_than_fifteen_lines():
    """A text model, K heads, a depth decoder and a masked model, beside their imports."""
    shown = [code for page, code in blocks("python") if str(page).endswith("your-model.md")][:4]
    lengths = [len([line for line in code.splitlines() if line and "import" not in line]) for code in shown]
    assert len(lengths) == 4
    assert max(lengths) < 15, lengths


def our_words(line):
    """What ``loss-align`` is given by a line of a console block; None if the line does not call it."""
    words = shlex.split(line.removeprefix("$ ").partition(" > ")[0], comments=True)
    if words[:1] in (["loss-align"], ["torchrun"]) and "loss-align" in words:
        return words[words.index("loss-align") + 1 :]
    if "preflight" in words and "--" in words and "tox" in words:
        return ["preflight", *words[words.index("--") + 1 :]]
    return None


def commands():
    for page, text in blocks("console"):
        for line in text.replace("\\\n", " ").splitlines():
            words = our_words(line)
            if words is not None:
                yield pytest.param(words, id=f"{page} {' '.join(words)}")


def in_sentences():
    """The commands that stand in tables and sentences, as far as they are whole; a name alone is none."""
    for page, text in TEXTS.items():
        for told in re.findall(r"`(loss-align [^`]*)`", BLOCK.sub("", text)):
            if " " in told.removeprefix("loss-align ") and not re.search(r"\.\.\.|…|[A-Z]{3,}|--[a-z-]+$", told):
                yield pytest.param(shlex.split(told)[1:], id=f"{page} {told}")


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(("page", "code"), list(python_blocks()))
def test_python_blocks_run(page, code, tmp_path, monkeypatch):
    """Run from above, it raises nothing; what it shows beyond that, it asserts itself."""
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "docs"})  # noqa: S102 - our own document


@pytest.mark.parametrize("words", [*commands(), *in_sentences()])
def test_commands_parse(words):
    words = [word for word in words if word != "--help"]
    assert build_parser().parse_args(words).command == words[0]
    for word in words:
        if word.startswith("fixtures/"):
            assert (ROOT / word.partition(":")[0]).exists()


def excerpts():
    for page, text in TEXTS.items():
        for command, _, excerpt in EXCERPT.findall(text):
            marks = [pytest.mark.higgs if RELEASED in command else pytest.mark.once]
            yield pytest.param(command, excerpt, marks=marks, id=f"{page} {command}")


def test_every_command_that_is_named_is_one_of_ours():
    named = {word for text in TEXTS.values() for word in re.findall(r"`loss-align ([a-z]+)[ `]", text)}
    assert named == {command.NAME for command in COMMANDS}


@pytest.mark.parametrize(("command", "excerpt"), list(excerpts()))
def test_an_excerpt_is_part_of_what_the_command_prints(command, excerpt, monkeypatch, warm):
    monkeypatch.setenv("COLUMNS", "120")
    done = warm.python("-m", "loss_align", *shlex.split(command)[1:], cwd=ROOT)
    seen = " ".join((done.stdout + done.stderr).split())
    for line in filter(str.strip, excerpt.splitlines()):
        assert " ".join(line.split()) in seen


def test_every_sample_of_a_report_is_held_to_its_command():
    """A report in a text block is an excerpt with a command, or stands in the gallery, which has a test of its own."""
    for page, text in TEXTS.items():
        reports = [
            body for kind, body in BLOCK.findall(text) if kind == "text" and re.search(r"^[✓✗] ", body, re.MULTILINE)
        ]
        if page != "docs/gallery.md":
            assert len(reports) == len(EXCERPT.findall(text)), page
    assert len(list(excerpts())) >= 2


@pytest.mark.parametrize("page", TEXTS)
def test_toml_blocks_can_be_read(page):
    tomllib = pytest.importorskip("tomllib")
    for kind, body in BLOCK.findall(TEXTS[page]):
        if kind == "toml":
            assert tomllib.loads(body)


def headings(text):
    """What a link can name: headings as GitHub writes them in an address."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        where, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (PAGES[page].parent / where).resolve() if where else PAGES[page]
        name = path.relative_to(ROOT).as_posix()
        if not path.exists() or (heading and heading not in headings(TEXTS.get(name, ""))):
            yield target


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    assert list(dead_links(page, TEXTS[page])) == []


def test_a_dead_link_is_seen():
    text = (
        "[a](docs/run.md) [b](docs/none.md) [c](docs/reports.md#verdicts) [d](docs/reports.md#none) [e](https://x.org)"
    )
    assert list(dead_links("README.md", text)) == ["docs/none.md", "docs/reports.md#none"]


def test_every_page_is_linked():
    linked = {
        (PAGES[page].parent / target.partition("#")[0]).resolve()
        for page, text in TEXTS.items()
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
    }
    assert {name for name, path in PAGES.items() if path not in linked} == {"README.md"}


def test_every_page_has_its_place_in_the_site():
    """What the strict build asks for, where mkdocs is not installed."""
    placed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    made = {"index.md", "architecture.md", "changelog.md", "security.md", "examples.md"}
    assert sorted(placed) == sorted(made | {path.name for path in (ROOT / "docs").glob("*.md")})


@pytest.mark.parametrize("page", TEXTS)
def test_codes_that_it_names_exist(page):
    assert set(re.findall(r"\bLA\d{3}\b", TEXTS[page])) <= set(RULES)


def test_the_catalogue_is_the_one_of_the_command(capsys):
    assert main(["rules", "--markdown"]) == 0
    told = "paste the output of: loss-align rules --markdown"
    assert capsys.readouterr().out in TEXTS["docs/findings.md"], told
