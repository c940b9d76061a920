"""A data set swept: exact counts of what was planted, whatever the form, the draw and the number of processes."""

import json
import os
import signal

import data_lines
import pytest
import torch
from chat_templates import conversation, tokenizer_of

from loss_align import main
from probes import UsageError, check_data
from probes.sweep import known_of, run, swept
from probes.sweep.source import FileSource, drawn

PLANTED = {7: "empty", 11: "no answer", 13: "long"}


def line(number, every):
    """A conversation, and at some numbers one with a fault."""
    asked = {"role": "user", "content": f"what is {number} and two?"}
    fault = PLANTED.get(number % every)
    if fault == "no answer":
        return {"messages": [asked]}
    said = {"empty": "", "long": "so on " * 40}.get(fault, f"it is {number + 2}.")
    return {"messages": [asked, {"role": "assistant", "content": said}]}


def written(path, count, every=100):
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps(line(number, every)) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("chatml")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "data.jsonl", 300)


def swept_by(command, folder, tmp_path, *words):
    out = tmp_path / "report.json"
    code = main(["data", str(command), "--tokenizer", folder, "--json", str(out), *words])
    return code, json.loads(out.read_text())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_exact_counts_whatever_the_number_of_processes(workers, data, folder, tmp_path):
    code, told = swept_by(data, folder, tmp_path, "--workers", workers, "--max-length", "120")
    assert code == 0
    found = told["data"]
    assert found["samples"] == 300
    assert found["kinds"] == {"no-target": 6, "cut-off": 3, "empty-answer": 3}
    assert [(one["code"], one["count"]) for one in told["findings"]] == [("LA207", 6)]
    assert found["roles"]["answer"]["trained"] == found["roles"]["answer"]["tokens"]
    assert (
        found["digest"]
        == swept_by(data, folder, tmp_path, "--workers", "1", "--max-length", "120")[1]["data"]["digest"]
    )


def test_samples_that_cannot_be_read_are_counted_and_fail(data, folder, tmp_path, capsys):
    with data.open("ab") as file:
        file.write(b'{"messages": 3}\n{"a": 1, "a": 2}\n\xff\n{\n{"prompt": "a", "completion": "\\ud800"}\n')
    code, told = swept_by(data, folder, tmp_path)
    assert (code, told["data"]["unreadable"]) == (1, 5)
    assert "line 301: no known form" in told["checks"][0]["detail"]


def test_a_draw_is_the_same_for_the_same_seed(data):
    chosen = [drawn(FileSource(data), 50, seed).chosen for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 50
    rows = [drawn(iter(range(1000)), 50, seed) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert sorted(set(rows[0])) == sorted(rows[0])


def test_what_it_trains_may_not_drift_unseen(data, folder, tmp_path, capsys):
    assert swept_by(data, folder, tmp_path)[0] == 0
    base = tmp_path / "base.json"
    (tmp_path / "report.json").rename(base)
    assert swept_by(data, folder, tmp_path, "--baseline", str(base))[0] == 0
    assert main(["diff", str(base), str(tmp_path / "report.json")]) == 0
    lines = data.read_text().splitlines()
    lines[0] = lines[0].replace("it is 2.", "it is 3.")  # as many tokens
    data.write_text("\n".join(lines) + "\n")
    code, told = swept_by(data, folder, tmp_path, "--baseline", str(base))
    assert code == 1
    assert "tokens and labels" in next(one["message"] for one in told["findings"] if one["code"] == "LA701")


def test_every_form_of_the_report(data, folder, tmp_path, capsys):
    paths = {form: tmp_path / f"out.{form}" for form in ("json", "junit", "markdown", "html")}
    words = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
    assert main(["data", str(data), "--tokenizer", folder, *words]) == 0
    told = capsys.readouterr().out
    told = " ".join(told.split())  # where the terminal wraps it depends on how long the path is
    for text in (told, *(path.read_text() for path in paths.values())):
        assert "no-target" in text or "sample-without-target" in text
    for text in (told, paths["html"].read_text()):
        assert "what is 7 and two?" in text
        assert "↵" in text


def test_batches_of_a_function_are_swept(tmp_path, folder):
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\ndef batches(tokenizer):\n"
        "    ids = torch.tensor([tokenizer('a question', add_special_tokens=False)['input_ids']])\n"
        "    for n in range(3):\n"
        "        yield {'input_ids': ids, 'labels': ids if n else torch.full_like(ids, -100)}\n"
    )
    code, told = swept_by(f"{own}:batches", folder, tmp_path)
    assert (code, told["data"]["kinds"], told["data"]["samples"]) == (0, {"no-target": 1, "open-end": 2}, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jsonl"], "no such file"),
        (["data.jsonl", "--train-on", "all"], "--tokenizer"),
        (["data.jsonl", "--tokenizer", "nowhere"], "no tokenizer there"),
        (["data.jsonl", "--sample", "0"], "less than 1"),
        (["own.py:missing"], "has no function"),
        (["data.jsonl", "--baseline", "none.json"], "create it with: loss-align data data.jsonl --json none.json"),
    ],
)
def test_bad_usage_is_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "data.jsonl", 3)
    (tmp_path / "own.py").write_text("")
    assert main(["data", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_an_interrupt_says_how_far_it_came_and_leaves_no_half(data, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "PART", 50)
    out, judged, real = tmp_path / "report.json", [], run._count

    def stop(*given):
        judged.append(1)
        if len(judged) == 120:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*given)

    monkeypatch.setattr(run, "_count", stop)
    assert main(["data", str(data), "--tokenizer", folder, "--workers", "1", "--json", str(out)]) == 3
    assert "ended by SIGTERM after 100 samples; nothing is known of the rest" in capsys.readouterr().err
    told = json.loads(out.read_text())
    assert (told["verdict"], "after 100 samples" in told["error"]) == ("error", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "report.json"]


# -- in Python ----------------------------------------------------------------------------------------------


def test_rows_batches_and_conversations_in_python(tokenizer):
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])
    report = check_data([{"input_ids": ids, "labels": ids}] * 3)
    assert (report.verdict, report.data["samples"], report.data["targets"]) == ("pass", 6, 18)
    chats = [{"messages": conversation("chatml", seed=seed)} for seed in range(5)]
    report = check_data(chats, tokenizer=tokenizer, train_on="assistant")
    assert (report.verdict, report.data["choices"]) == ("pass", {"answers": 5})
    assert check_data(chats, tokenizer=tokenizer, sample=2).data["samples"] == 2


class ByNumber:
    """As torch's map-style data sets: no iterator of its own, and an error of its own behind the end."""

    def __len__(self):
        return 20

    def __getitem__(self, number):
        if number >= 20:
            raise KeyError(number)
        return {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}


def test_rows_by_number_alone():
    assert check_data(ByNumber()).data["samples"] == 20
    assert check_data(ByNumber(), sample=5).data["samples"] == 5


def test_labels_that_train_nothing_anywhere_fail(tokenizer):
    ids = torch.tensor([[5, 6, 7, 8]])
    report = check_data([{"input_ids": ids, "labels": torch.full_like(ids, -100)}])
    assert [one.code for one in report.findings] == ["LA206"]
    with pytest.raises(AssertionError, match="LA206"):
        report.raise_for_findings()


@pytest.mark.parametrize("wrong", ["text", 3, None])
def test_what_cannot_be_iterated_is_refused(wrong):
    with pytest.raises(UsageError, match="something to iterate over"):
        check_data(wrong)


def test_every_planted_fault_of_a_larger_file_is_counted(tmp_path):
    found, wanted, _, _ = data_lines.measured(1100, 1, tmp_path)
    assert found == wanted


@pytest.mark.deep
def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path, warm):
    """What a process and its workers hold at most, in MiB."""
    held = []
    for lines in (2_000, 60_000):
        done = warm.python(data_lines.__file__, "--lines", lines, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        held.append(int(done.stdout.partition(" MiB")[0].rpartition(" ")[2].replace(",", "")))
    assert held[1] - held[0] < 30


def test_counts_add_up_in_any_split(tokenizer, data):
    known = known_of(tokenizer)
    whole = swept(FileSource(data), known).as_dict()
    assert swept(FileSource(data), known, workers=3).as_dict() == whole
