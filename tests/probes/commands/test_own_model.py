"""Models and batches of people's own on the command line: ``--model``, ``--batch`` and ``--loss`` name functions."""

import json
from pathlib import Path

import pytest

import loss_align

HERE = Path(__file__).parents[1]

OWN = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import torch
import torch.nn.functional as F
from torch import nn
from speech_zoo import by_name

zoo = by_name("text and K codebooks")


def build():
    return zoo.model()


def batch(model):
    return zoo.batch()


right, copy = zoo.right, zoo.wrong["copy"][0]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body, self.out = nn.Embedding(300, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 300)

    def forward(self, tokens):
        return self.out(self.body(self.table(tokens))[0])


def plain():
    return Plain()


def mean(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def plain_loss(model, batch):
    return mean(model(batch["input_ids"]), batch["labels"])


def plain_copy(model, batch):
    return F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())


class Masked(nn.Module):
    def __init__(self, inverted):
        super().__init__()
        torch.manual_seed(0)
        self.inverted, self.table, self.place = inverted, nn.Embedding(300, 16), nn.Embedding(64, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 300)

    def forward(self, input_ids):
        length = input_ids.shape[1]
        hidden = self.table(input_ids) + self.place(torch.arange(length))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        seen = F.scaled_dot_product_attention(*self.qkv(hidden).chunk(3, -1), later if self.inverted else ~later)
        return self.out(hidden + seen.nan_to_num())


def masked():
    return Masked(False)


def inverted():
    return Masked(True)


def short(model):
    ids = torch.arange(2, 42).reshape(2, 20)
    return {{"input_ids": ids, "labels": ids.clone()}}


def forgets(model, batch):
    labels = batch["labels"]
    return mean(model(batch["input_ids"]), labels.masked_fill(labels > 41, -100))


def one_id(model):
    held = zoo.batch()
    return {{**held, "codes": torch.zeros_like(held["codes"])}}


def apart(model):
    held = short(model)
    return {{"input_ids": held["input_ids"], "gold": held["labels"]}}


def gold(model, batch):
    return mean(model(batch["input_ids"]), batch["gold"])


def nothing():
    return 3


def a_list(model):
    return [1]


def raises():
    raise ValueError("no weights here")
"""

STREAMS = """
[text]
head = "text_head"
ids = "text"

["audio[{k}]"]
head = "heads.{k}"
ids = "codes[:, {k}]"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "streams.toml").write_text(STREAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words):
    return loss_align.main([str(word) for word in words])


DECLARED = ("--model", "own.py:build", "--batch", "own.py:batch", "--streams", "streams.toml")
PLAIN = ("--model", "own.py:plain", "--loss", "own.py:plain_loss")


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("copy", 1)])
def test_preflight_of_declared_streams(here, loss, code):
    assert command("preflight", *DECLARED, "--loss", f"own.py:{loss}", "--json", "report.json") == code
    report = json.loads(Path("report.json").read_text())
    checks = {check["id"]: check["status"] for check in report["checks"]}
    assert checks["training-step"] == checks["pairing-text"] == "pass"
    assert checks["pairing-audio"] == ("fail" if code else "pass")
    assert set(report["streams"]) == {"text", *(f"audio[{k}]" for k in range(4))}


def test_a_plain_module_goes_through_every_check_that_applies(here):
    assert command("preflight", *PLAIN, "--json", "report.json") == 0
    checks = {check["id"]: check["status"] for check in json.loads(Path("report.json").read_text())["checks"]}
    passed = {name for name, status in checks.items() if status == "pass"}
    assert passed >= {"text-length", "text-loss", "training-step", "pairing-text", "coverage", "causality"}
    assert command("preflight", "--model", "own.py:plain", "--loss", "own.py:plain_copy") == 1


@pytest.mark.parametrize(("model", "said"), [("masked", []), ("inverted", ["LA401"])])
def test_an_inverted_mask_of_a_plain_module_whose_forward_takes_neither_labels_nor_mask(here, model, said):
    words = ("--model", f"own.py:{model}", "--batch", "own.py:short", "--loss", "own.py:plain_loss")
    assert command("preflight", *words, "--json", "report.json") == len(said)
    report = json.loads(Path("report.json").read_text())
    assert [one["code"] for one in report["findings"]] == said
    assert {check["id"]: check["status"] for check in report["checks"]}["causality"] == ("fail" if said else "pass")


def test_explain_record_and_fuzz_take_them_too(here, capsys):
    assert command("explain", *DECLARED, "--loss", "own.py:copy", "--rows", "0:4") == 1
    assert "audio[0]" in capsys.readouterr().out
    assert command("record", *PLAIN, "--out", "record.json") == 0
    assert '"text"' in Path("record.json").read_text()
    assert command("fuzz", *PLAIN, "--case", "t5p") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "own.py:plain"), "name it with --loss"),
        (("--model", "own.py:plian", "--loss", "own.py:right"), "did you mean plain?"),
        (("--model", "own.py:nothing", "--loss", "own.py:right"), "must return a torch module, it returned a int"),
        (("--model", "own.py:raises", "--loss", "own.py:right"), "raised ValueError: no weights here"),
        (("--model", "own.py:batch", "--loss", "own.py:right"), "must be callable as FUNC()"),
        ((*PLAIN, "--batch", "own.py:a_list"), "must return a mapping"),
        ((*PLAIN, "--batch", "own.py:plain"), "must be callable as FUNC(model)"),
        ((*PLAIN, "--batch", "own.py:batch", "--length", "9"), "cannot be used with --length"),
        ((*PLAIN, "--streams", "streams.toml"), "name it with --batch"),
        ((*DECLARED, "--loss", "own.py:right", "--head", "text_head"), "leave --head out"),
        (
            ("--model", "own.py:build", "--batch", "own.py:batch", "--streams", "s.toml", "--loss", "own.py:right"),
            "s.toml",
        ),
        (DECLARED, "name it with --loss"),
    ],
)
def test_what_is_wrong_with_them_is_one_sentence(here, capsys, words, message):
    assert command("preflight", *words) == 2
    assert message in capsys.readouterr().err


FUZZED = ("fuzz", "--model", "own.py:plain", "--batch", "own.py:short", "--examples", "6", "--json", "fuzz.json")


def fuzzed(*words):
    return command(*words), json.loads(Path("fuzz.json").read_text())


def test_fuzz_draws_batches_of_the_form_of_ones_own(here, capsys):
    code, told = fuzzed(*FUZZED, "--loss", "own.py:plain_loss")
    assert (code, told["cases"], told["counterexamples"]) == (0, 6, [])
    code, told = fuzzed(*FUZZED, "--loss", "own.py:plain_copy")
    assert (code, [(one["code"], one["case"]) for one in told["counterexamples"]]) == (1, [("LA102", "b0 s0")])
    assert "--batch own.py:short --loss own.py:plain_copy --case 'b0 s0'" in " ".join(capsys.readouterr().out.split())
    assert command(*FUZZED[:-2], "--loss", "own.py:plain_copy", "--case", "b3") == 1


def test_a_fault_of_some_ids_alone_is_found_where_they_are_drawn(here):
    assert command("preflight", *FUZZED[1:5], "--loss", "own.py:forgets") == 0
    code, told = fuzzed(*FUZZED, "--loss", "own.py:forgets")
    assert (code, [one["code"] for one in told["counterexamples"]]) == (1, ["LA201"])
    assert fuzzed(*FUZZED, "--loss", "own.py:forgets", "--case", "b0")[0] == 0


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("copy", 1)])
def test_fuzz_of_declared_streams(here, loss, code):
    words = ("fuzz", *DECLARED, "--loss", f"own.py:{loss}", "--examples", "4", "--json", "fuzz.json")
    assert fuzzed(*words)[0] == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*PLAIN, "--streams", "streams.toml"), "name it with --batch"),
        ((*PLAIN, "--batch", "own.py:shrot"), "did you mean short?"),
        ((*PLAIN, "--batch", "own.py:a_list"), "must return a mapping"),
        ((*DECLARED, "--loss", "own.py:right", "--batch", "own.py:one_id"), "1 ordinary ids are left to draw from"),
        ((*PLAIN[:2], "--batch", "own.py:apart", "--loss", "own.py:gold"), "'gold' holds those of text as well"),
        ((*PLAIN, "--batch", "own.py:short", "--case", "t3a"), "as in 'b17' or 'b17 s0'"),
        ((*PLAIN, "--batch", "own.py:short", "--case", "b1 s2"), "the batch has 2 samples"),
    ],
)
def test_batches_that_fuzz_cannot_draw_are_one_sentence(here, capsys, words, message):
    assert command("fuzz", *words) == 2
    assert message in capsys.readouterr().err
