"""``--html``: one file that needs no network, says what the report says, and lets no text from data run."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.nn.functional as F
from narrow import narrow_default
from pages import EVIL, report, story, told

from alignment.findings import Example, finding
from loss_align import main
from probes import check_loss
from probes.records.report import error_report
from probes.report import Check, Report
from probes.report.columns import columns
from probes.report.html import render
from probes.report.kinds import KINDS, KINDS_OF, kind_of
from probes.report.picture import picture
from probes.report.tokens import SIGNS

ROOT = Path(__file__).parents[3]
TRAINERS = ROOT / "fixtures" / "trainers"
TWO_MB = 2_000_000


class Reader(HTMLParser):
    """Every tag and address of a page, and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.scripts, self.ids = [], [], [], []
        self.inside = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag
        for key, value in attrs:
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "action", "srcset"):
                self.links.append(value)
            if key == "id":
                self.ids.append(value)

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self.inside = None


# ---------------------------------------------------------------- the page


def test_the_page_says_what_the_report_says():
    page = render(report([story(row) for row in range(6)]))
    assert "FAIL" in page
    assert "LA102 copy-objective" in page
    assert "pairing-text" in page
    assert 'href="#row/text/0/3"' in page
    assert "What this loss trains: 6 rows learn to repeat what they have just read" in page
    assert "<h1>2 text rows learn to repeat what they have just read</h1>" in page
    assert "What it should train: the next token" in page


def test_what_the_headline_leaves_out_is_linked_below_it_the_gravest_first():
    one = report([story(row) for row in range(6)])
    one.findings = [finding(code, "text", "m", count=2) for code in ("LA301", "LA102", "LA802", "LA401")]
    page = render(one)
    assert "<h1>2 text rows learn to repeat what they have just read</h1>" in page
    links = re.search('<ul class="also">(.*?)</ul>', page)[1]
    assert re.findall(r'href="#finding-(\d)"', links) == ["3", "2", "0"]
    assert all(f'id="finding-{number}"' in page for number in range(4))


def test_the_page_needs_no_network():
    page = render(report([story(row) for row in range(6)]))
    seen = Reader(page)
    assert all(link.startswith(("#", "data:image/svg+xml")) for link in seen.links)
    addresses = set(re.findall(r"\b(?:https?:)?//[a-z][^\s\"'<]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "a name space, never fetched"
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    assert len(seen.ids) == len(set(seen.ids))


def test_a_page_without_findings_or_rows():
    page = render(Report(checks=[Check("coverage", "Every target", "pass", "2 of 2")]))
    assert "PASS" in page
    assert "None." in page
    assert 'id="rows"' not in page


def test_an_error_is_a_page_too():
    page = render(error_report("no such <file>", 2))
    assert "ERROR" in page
    assert "no such &lt;file&gt;" in page
    assert "exit code 2" in page
    assert told(page)["parts"] == []


def test_no_text_from_data_becomes_markup():
    evil = finding("LA102", f"text {EVIL}", EVIL, fix=EVIL, examples=(Example(f"t{EVIL}", 0, 1, 1, 2, 1),))
    page = render(
        Report(
            checks=[Check(EVIL, EVIL, "fail", EVIL)],
            findings=[evil],
            streams={EVIL: {"rows": 1, "offsets": {EVIL: 1}}},
            environment={"model": EVIL, EVIL: EVIL},
            decision={"text": {"pairing": EVIL}},
            notes=[EVIL],
            rows=lambda: [story(0, stream=f"text{EVIL}"), story(1)],
            token_name=lambda token: f"{EVIL}{token}",
        )
    )
    clean = Reader(render(report([story(0), story(1)])))
    seen = Reader(page)
    assert seen.tags.count("script") == clean.tags.count("script") == 2
    assert "img" not in seen.tags
    assert told(page)["names"]["101"].startswith("</script>"), "still there, as text"


def test_every_verdict_has_a_kind_and_every_kind_a_colour():
    colours = (ROOT / "probes" / "report" / "assets" / "colours.css").read_text()
    assert {kind.id for kind in KINDS} == {*SIGNS, "double"}
    for kind in KINDS:
        assert f".k-{kind.id} {{ --kind: var(--{kind.id}); }}" in colours
        assert colours.count(f"--{kind.id}: #") == 2, "by day and by night"
    assert {kind for kinds in KINDS_OF.values() for kind in kinds} <= {kind.id for kind in KINDS}
    assert kind_of(story(0, "astray", offset=2)) == "double"
    assert kind_of(story(0, "astray", offset=3)) == "astray"


def test_a_notebook_gets_the_page_in_a_frame_of_bounded_size():
    rows = [story(n, stream=f"audio[{k}]", weight=n / 7) for k in range(8) for n in range(2_000)]
    shown = report(rows, notes=[EVIL])._repr_html_()
    assert len(shown.encode()) < 500_000
    (frame,) = re.findall("<[^>]*>", shown.partition("srcdoc=")[0] + ">")
    assert frame.startswith('<iframe sandbox="allow-scripts allow-downloads"'), "and not the origin of the notebook"
    inside = shown.partition("srcdoc='")[2].rpartition("'>")[0]
    assert "'" not in inside
    assert "<" not in inside
    assert unescape(inside) == render(report(rows, notes=[EVIL]), 300_000)
    assert shown.endswith("'>loss-align: FAIL: 1 error</iframe>"), "what is left where frames are not shown"


def test_causality_is_drawn_where_the_report_has_it():
    cut = {"sample": 0, "position": 5, "what": "inside <text>", "leaking": 1, "moved": 4, "strip": "··!█"}
    one = report([story(0)])
    assert "What each logit has read" not in render(one)
    one.causality = {"runs": [], "cuts": [cut]}
    page = render(one)
    assert "inside &lt;text&gt;" in page
    assert "4 rows moved, 1 of them before the cut" in page


# ---------------------------------------------------------------- the rows


def test_the_rows_come_back_as_they_were():
    rows = [story(0, "none"), story(1), story(2, "missing"), story(7, "right", weight=float("nan")), story(8, sample=1)]
    part, other = json.loads(columns(rows, 5, [], str))["parts"]
    assert part["row"] == [[0, 3], [7, 1]]
    assert part["token"] == [100, 101, 102, 107]
    assert part["offset"] == [[None, 1], [0, 1], [None, 1], [1, 1]]
    assert part["target"] == [[3, 108]], "the others are where their offset leads"
    assert part["wanted"] == [[0, 1], [1, 3]]
    assert part["expected"] == [[2, 103], [3, 108]], "beyond a gap, and beyond the end"
    assert part["weight"] == [[0.1, 3], ["nan", 1]]
    assert [KINDS[kind].id for kind, _ in part["kind"]] == ["none", "copy", "missing", "right"]
    assert (other["sample"], other["token"]) == (1, [108])


def test_a_long_batch_stays_under_two_megabytes():
    audio = [
        story(n, stream=f"audio[{k}]", sample=s, weight=n / 7) for s in (0, 1) for k in range(8) for n in range(3900)
    ]
    text = [story(n, sample=s, token=120_000 - n, weight=n / 3) for s in (0, 1) for n in range(4096)]
    page = render(report([*text, *audio], token_name=lambda token: f"token number {token}"))
    assert len(page.encode()) < TWO_MB
    data = told(page)
    held = [sum(count for _, count in part["row"]) for part in data["parts"]]
    assert max(held) < 4096, "weights that are all different: this one has to be cut"
    assert data["total"] > sum(held), "and the page says so"
    short = told(render(report([story(n, sample=s, token=n) for s in (0, 1) for n in range(4096)])))
    assert [part["row"] for part in short["parts"]] == [[[0, 4096]]] * 2, "4096 positions of text fit whole"


def test_the_picture_opens_where_the_finding_points():
    rows = [story(row, "none") for row in range(40)] + [story(row) for row in range(40, 80)]
    found = finding("LA102", "text", "copies", examples=(Example("text", 0, 60, 1, 2, 60),))
    assert "rows 58 to 69" in picture(rows, [found], str)
    assert "rows 38 to 49" in picture(rows, [], str)
    assert picture([], [found], str) == ""
    right = picture([story(row, "right") for row in range(5)], [], str)
    assert "5 rows learn the next token" in right
    assert "should train" not in right
    unknown = picture([story(row, "unknown") for row in range(5)], [], str)
    assert "What this loss trains" not in unknown


# ---------------------------------------------------------------- real models


def test_any_model_gets_its_rows(lm):
    page = render(check_loss(lm.model, lm.batch, lm.copy))
    data = told(page)
    kinds = [KINDS[kind].id for part in data["parts"] for kind, _ in part["kind"]]
    assert "copy" in kinds
    assert data["findings"][0]["label"] == "LA102 copy-objective, the text"


@pytest.fixture(scope="module")
def lm():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    ids = torch.arange(40).view(2, 20) + 3

    def copy(model, batch):
        return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())

    return SimpleNamespace(model=LlamaForCausalLM(config), batch={"input_ids": ids, "labels": ids.clone()}, copy=copy)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of the seed document's losses: before its fix, after it, and corrected; the last of published ids."""
    folder = tmp_path_factory.mktemp("pages")

    def write(name):
        words = ("--length", "96", "--loss", f"{TRAINERS / name}.py:loss", "--html", str(folder / f"{name}.html"))
        return main(["preflight", *words])

    with pytest.MonkeyPatch.context() as narrow:
        narrow_default(narrow)
        assert [write(name) for name in ("seed_before_fix", "seed_after_fix")] == [1, 1]
    assert write("correct") == 0
    return folder


@pytest.mark.higgs
@pytest.mark.parametrize(
    ("name", "says", "kinds"),
    [
        ("seed_before_fix", "LA101 length-mismatch", {"unknown", "none"}),
        ("seed_after_fix", "LA102 copy-objective", {"copy", "missing", "right", "none"}),
        ("correct", "PASS", {"right", "none"}),
    ],
)
def test_the_three_losses_of_the_seed(pages, name, says, kinds):
    page = (pages / f"{name}.html").read_text(encoding="utf-8")
    assert len(page.encode()) < TWO_MB
    assert says in page
    data = told(page)
    assert {KINDS[kind].id for part in data["parts"] for kind, _ in part["kind"]} == kinds
    assert {part["stream"] for part in data["parts"]} == {"text", *(f"audio[{k}]" for k in range(8))}
    assert name != "correct" or data["names"]["128009"] == "<|eot_id|>"


#: The command that docs/reports.md gives for the picture in README; the picture is the page's first.
PICTURED = (
    "explain --data fixtures/chatml/speech.jsonl --loss fixtures/trainers/seed_after_fix.py:loss "
    "--sample 1 --stream text --rows 148:160"
)


@pytest.mark.higgs
def test_the_picture_in_the_readme_is_what_the_command_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert f"loss-align {PICTURED}" in (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    assert main([*PICTURED.split(), "--html", str(page)]) == 1
    drawn = re.search(r"<svg class=\"picture\".*?</svg>\n", page.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert drawn == (ROOT / "docs" / "copy-objective.svg").read_text(encoding="utf-8"), "save it from the page again"


@pytest.mark.higgs
def test_a_page_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    assert main(["preflight", "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "create it first" in capsys.readouterr().err


def test_bad_usage_writes_the_page_of_the_error(tmp_path):
    path = tmp_path / "page.html"
    assert main(["preflight", "--html", str(path), "--batch-size", "none"]) == 2
    assert "is not a whole number" in path.read_text(encoding="utf-8")


def test_characters_that_no_page_can_hold_are_replaced():
    report = error_report("a\x00b\x1b[31mc\ud800", 2)
    page = render(report)
    assert "a\ufffdb\ufffd[31mc\ufffd" in page
    page.encode("utf-8")
