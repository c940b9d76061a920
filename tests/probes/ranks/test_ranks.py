"""preflight on two gloo ranks under torchrun: one report, the odd rank named, one clear error when a rank ends."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import forked_ranks
import numpy as np
import pytest
import torch
from lm_batches import text_batch
from lm_tiny import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.findings import Line, finding
from probes.models import adapter_for
from probes.ranks.lockstep import CAUSES
from probes.ranks.same_batch import rank_findings, watched
from probes.ranks.shards import join_ranks, rank_payload
from probes.report import Check, Report
from probes.report.markdown import render as markdown
from probes.witness.witness import Options

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]
LOSSES = Path(__file__).parents[1] / "rank_losses.py"
PREFLIGHT = ("-m", "loss_align", "preflight")
WAITED = "the loss of rank 0 waited in a collective for rank 1"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def torchrun(*words, cwd):
    """``loss-align preflight`` on two ranks as README says, on a free port: runs beside each other do not meet."""
    launcher = ["--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--no-python"]
    line = [BIN / "torchrun", *launcher, BIN / "loss-align", "preflight", *words]
    base = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        [*map(str, line)], cwd=cwd, env=base, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture
def ranks(warm, tmp_path):
    """The same launcher with ranks that are forked: of what a script or a module does in ``tmp_path``."""

    def run(*words, **environ):
        base = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        return warm.python(forked_ranks.__file__, *words, cwd=tmp_path, env=base | environ)

    return run


@pytest.fixture(params=["forked", pytest.param("torchrun", marks=pytest.mark.deep)])
def started(request, ranks, tmp_path):
    """``loss-align preflight`` on two ranks: forked, or three processes that import torch, as a user starts them."""
    if request.param == "forked":
        return lambda *words: ranks(*PREFLIGHT, *words)
    return lambda *words: torchrun(*words, cwd=tmp_path)


def test_the_line_of_readme_on_ranks_that_agree(checkpoint, tmp_path, started):
    """A trainer's flags as they stand, and a loss that divides by the targets of all ranks."""
    words = f"--base_ckpt {checkpoint} --batch_size 2 --lr 2e-4 --epochs 2 --grad_accum 8 --output_dir out"
    done = started(*words.split(), "--loss", f"{LOSSES}:counted", "--json", "r.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS: ") == 2  # the verdict, and what it means
    report = json.loads((tmp_path / "r.json").read_text())
    check = next(check for check in report["checks"] if check["id"] == "ranks")
    assert (check["status"], report["verdict"], report["findings"]) == ("pass", "pass", [])
    assert check["detail"] == "2 ranks do the same with the same batch; text: 84 targets on each"
    first, second = report["ranks"]
    assert [first["rank"], second["rank"]] == [0, 1]
    assert [rank["token_weight"]["text"] for rank in report["ranks"]] == pytest.approx([1.0, 1.0])
    assert first["same_batch"] == second["same_batch"]
    assert first["losses"] != second["losses"], "each rank has a shard of its own"
    assert {path.name for path in tmp_path.iterdir()} == {"r.json"}


def test_a_rank_with_another_convention_is_named(checkpoint, ranks, tmp_path):
    """It copies, so that its loss is run more often there: its all_reduce must find a partner nevertheless."""
    words = f"--model {checkpoint} --loss {LOSSES}:copies --json r.json --junit r.xml --markdown r.md --html r.html"
    done = ranks(*PREFLIGHT, *words.split())
    assert done.returncode == 1
    assert done.stdout.count("FAIL: 2 errors; ") == 1
    assert "findings or failed checks (verdict fail); the report of rank 0 tells more" in done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    odd, copy = report["findings"]
    assert (odd["code"], odd["count"]) == ("LA603", 1)
    assert odd["message"] == (
        "on one and the same batch rank 1 differs from rank 0: text is trained at offsets {0: 84}, there at {+1: 84}"
    )
    assert (copy["code"], copy["stream"]) == ("LA102", "text")
    assert copy["message"].startswith("rank 1: ")
    assert [rank["codes"] for rank in report["ranks"]] == [[], ["LA102"]]
    assert {c["id"]: c["status"] for c in report["checks"]}["pairing-text"] == "pass", "rank 0's own shard"
    assert report["checks"][-1] == {
        "id": "ranks",
        "title": "The ranks agree",
        "status": "fail",
        "detail": "LA603 ranks-disagree on all; rank 1: LA102 copy-objective on text",
    }
    case = ET.parse(tmp_path / "r.xml").find(".//testcase[@name='ranks']/failure")  # noqa: S314 - our own
    assert case.get("type") == "LA603"
    assert "| 1 |" in (tmp_path / "r.md").read_text()
    assert '<h2 id="ranks">Ranks</h2>' in (tmp_path / "r.html").read_text()


def test_a_rank_that_sums_instead_of_averaging(checkpoint, ranks):
    done = ranks(*PREFLIGHT, "--model", checkpoint, "--loss", f"{LOSSES}:sums", "--ignore", "LA102")
    assert done.returncode == 1
    assert "rank 1 differs from rank 0: the weights of text add up to 84, there to 1: another" in done.stdout
    assert done.stdout.count("FAIL: 1 error; ") == 1


@pytest.mark.parametrize(
    ("loss", "planted", "told", "code"),
    [
        ("dies", "", "rank 1 of 2 ended before handing in a report", 3),
        pytest.param(
            *("hangs", "", "rank 1 did not come to call 2 of the loss within 4 s: {causes}", 3), marks=pytest.mark.deep
        ),
        (
            "one_sided",
            "",
            "{waited}, whose loss did not call it: every rank must call the same collectives",
            2,
        ),
        (
            "raises",
            "",
            "{waited}, whose loss had ended; before that the loss of rank 1 raised ValueError: three sheep",
            2,
        ),
        pytest.param("first_dies", "", "rank 0 of 2 ended before handing in a report", 3, marks=pytest.mark.deep),
        pytest.param(
            *("first_hangs", "", "rank 0 did not come to call 2 of the loss within 4 s: {causes}", 3),
            marks=pytest.mark.deep,
        ),
        (
            "counted",
            "no file on one machine",
            "rank 1: --loss: importing {losses} raised FileNotFoundError: train/extra.json",
            2,
        ),
    ],
    ids=[
        "a rank that dies",
        "a rank that hangs",
        "a collective of one rank",
        "a rank that raises",
        "rank 0 dies",
        "rank 0 hangs",
        "bad input on one rank",
    ],
)
def test_one_clear_error_that_names_the_rank(checkpoint, ranks, tmp_path, loss, planted, told, code):
    words = f"--model {checkpoint} --loss {LOSSES}:{loss} --rank-timeout 4 --json r.json"
    done = ranks(*PREFLIGHT, *words.split(), PLANTED=planted)
    told = told.format(losses=LOSSES, causes=CAUSES, waited=WAITED)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("loss-align:")] == [f"loss-align: {told}"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["verdict"], report["error"], report["exit_code"]) == ("error", told, code)
    assert {path.name for path in tmp_path.iterdir()} == {"r.json"}


@pytest.mark.higgs
def test_the_torchrun_line_of_the_seed(ranks, tmp_path):
    """Word by word but for the paths and two ranks, prefixed as README says; the small model saved as a checkpoint."""
    from probes.models.higgs import small_model

    small_model(hidden=16, layers=1).save_pretrained(tmp_path / "checkpoint")
    words = (
        f"--train_manifest {ROOT}/fixtures/chatml/speech.jsonl --output_dir {tmp_path}/out "
        f"--base_ckpt {tmp_path}/checkpoint --batch_size 2 --lr 2e-4 --epochs 2 --grad_accum 8 "
        "--lora_r 16 --lora_alpha 32 --lora_dropout 0.05 --json r.json"
    )
    done = ranks(*PREFLIGHT, *words.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS: ") == 2
    report = json.loads((tmp_path / "r.json").read_text())
    statuses = {check["id"]: check["status"] for check in report["checks"]}
    for check in ("text-length", "text-loss", "audio-loss", "training-step", "peft", "causality", "decode", "ranks"):
        assert statuses[check] == "pass", check
    assert [rank["targets"] for rank in report["ranks"]] == [{"text": 44, "audio": 208}, {"text": 48, "audio": 72}]
    assert [rank["token_weight"]["text"] for rank in report["ranks"]] == pytest.approx([46 / 44, 46 / 48])
    assert "text: 44 and 48 targets, and a target weighs 1.045 and 0.958 of its global weight" in " ".join(
        done.stdout.split()
    )


WRAPPED = """
import gc
import json
import sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM
from probes import check_loss

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
config = LlamaConfig(vocab_size=96, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = DistributedDataParallel(LlamaForCausalLM(config))
ids = torch.randperm(80, generator=torch.Generator().manual_seed(rank))[:40].view(2, 20) + 10
batch = {"input_ids": ids, "labels": ids.clone()}

def counted(model, batch):
    labels = batch["labels"][:, 1:].flatten()
    count = (labels != -100).sum()
    dist.all_reduce(count)
    return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), labels, reduction="sum") / count

def copy(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())

def gradient(net):
    net.zero_grad()
    counted(net, batch).backward()
    return torch.cat([param.grad.flatten() for param in model.parameters()])

before = gradient(model)
codes = [[f.code for f in check_loss(model, batch, loss).findings] for loss in (counted, copy, counted)]
after = gradient(model)
own = gradient(model.module)
dist.all_reduce(own)
same = torch.equal(before, after) and torch.allclose(own / dist.get_world_size(), after, atol=1e-7)
sys.stdout.write(json.dumps([rank, codes, same]) + "\\n")  # at once: the ranks share one output
sys.stdout.flush()
del model  # DDP's threads end before gloo's, or torch aborts now and then as it leaves
gc.collect()
dist.barrier()
dist.destroy_process_group()
"""


def test_a_model_in_ddp_is_checked_between_two_steps_and_goes_on_training(ranks, tmp_path):
    """Strict DDP complains of a forward whose backward never came: a check must leave nothing behind in it."""
    script = tmp_path / "script.py"
    script.write_text(WRAPPED)
    done = ranks(script)
    assert done.returncode == 0, done.stderr
    told = sorted(json.loads(line) for line in done.stdout.splitlines())
    assert told == [[rank, [[], ["LA102"], []], True] for rank in (0, 1)]


# -- what ranks do with one batch ---------------------------------------------------------------------


def test_ranks_that_draw_from_random_states_of_their_own_agree():
    """Trainers seed every rank otherwise; the loss that drops what they draw is the same."""
    model = tiny_model("LlamaForCausalLM")

    def loss(model, batch):
        labels = batch["labels"].clone()
        for draw in (random.random(), np.random.rand(), float(torch.rand(()))):  # noqa: NPY002 - as trainers do
            labels[:, int(draw * labels.shape[1])] = -100
        return model(**dict(batch, labels=labels)).loss

    def rank(number):
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        torch.manual_seed(number)
        seen = watched(model, adapter_for(model), text_batch, loss, Options(), 0)
        return seen, random.random(), np.random.rand()  # noqa: NPY002

    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    (first, *drawn), (second, *_) = rank(1), rank(2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert [random.random(), np.random.rand()] == drawn, "their own states are as before"  # noqa: NPY002
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    assert 0 < first["streams"]["text"]["supervised"] < first["streams"]["text"]["expected"]
    assert rank_findings([first, second], "float32") == []


# -- what ranks hand in, compared and joined without running any -----------------------------------------


def result(raised="", codes=(), **entry):
    text = {"rows": 40, "expected": 36, "supervised": 36, "missing": 0, "unexpected": 0, "unreadable": 0}
    text |= {"offsets": {"1": 36}, "weight_sum": 1.0, **entry}
    return {"raised": raised, "codes": list(codes), "streams": {} if raised else {"text": text}}


def told(*results):
    findings = rank_findings(results, "float32")
    assert all(f.code == "LA603" and f.is_error for f in findings)
    return [f.message for f in findings]


@pytest.mark.parametrize(
    "odd",
    [
        result(),
        result(weight_sum=1.0 + 1e-7),
        result(weight_sum=float("nan")),
        result(raised="KeyError: 'nope' at 0x7f01"),
    ],
    ids=["the same", "rounding", "not a number", "raises"],
)
def test_ranks_that_do_the_same_agree(odd):
    other = result(raised="KeyError: 'nope' at 0x7f99") if odd["raised"] else odd
    assert told(other, odd, other) == []


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        (result(weight_sum=36.0), "the weights of text add up to 36, there to 1: another normaliser"),
        (result(weight_sum=float("nan")), "the weights of text add up to nan, there to 1: another normaliser"),
        (result(offsets={"0": 36}), "text is trained at offsets {0: 36}, there at {+1: 36}"),
        (result(supervised=30), "30 rows of text are supervised, there 36"),
        (result(raised="boom"), "the loss raises 'boom', there it runs"),
        (result(codes=["LA301 on text"]), "LA301 on text is found, there nothing"),
    ],
    ids=["sum", "not a number", "copy", "fewer rows", "raises", "a warning"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_whatever_one_rank_does_otherwise_names_it(odd, what, place):
    results = [result(), result()]
    results.insert(place, odd)
    others = " and ".join(str(rank) for rank in range(3) if rank != place)
    assert told(*results) == [f"on one and the same batch rank {place} differs from ranks {others}: {what}"]


def test_of_two_ranks_the_one_with_a_finding_is_the_odd_one():
    copy = result(offsets={"0": 36}, codes=["LA102 on text"])
    assert told(copy, result())[0].startswith("on one and the same batch rank 0 differs from rank 1: ")


def test_a_missing_stream_is_a_difference():
    other = result()
    other["streams"]["audio[0]"] = dict(other["streams"]["text"])
    assert told(result(), other) == [
        "on one and the same batch rank 1 differs from rank 0: audio[0] is a stream, there it is not so"
    ]


def shard(rank, targets=36, weight=1.0, findings=(), checks=(), same=None, decision=None):
    report = Report(
        checks=list(checks),
        findings=list(findings),
        streams={"text": {"rows": 40, "expected": targets, "supervised": targets, "weight_sum": weight}},
        decision={"text": decision or {}},
        environment={"device": "cpu", "dtype": "float32"},
    )
    return report, json.loads(json.dumps(rank_payload(report, rank, result() if same is None else same)))


def joined(*shards, keep=None):
    report = shards[0][0]
    join_ranks(report, [payload for _, payload in shards], keep)
    return report, report.check("ranks")


def test_unequal_counts_are_stated_and_no_finding():
    report, check = joined(shard(0, 34), shard(1, 36))
    assert (check.status, report.findings) == ("pass", [])
    assert [round(rank["token_weight"]["text"], 3) for rank in report.ranks] == [1.029, 0.972]
    assert "text: 34 and 36 targets, and a target weighs 1.029 and 0.972 of its global weight" in check.detail


def test_a_global_denominator_is_recognised_as_unbiased():
    _, check = joined(shard(0, 34, 2 * 34 / 70), shard(1, 36, 2 * 36 / 70))
    assert check.detail.endswith("text: 34 and 36 targets, all of the same weight")


def test_many_ranks_are_told_by_their_range():
    report, check = joined(*[shard(rank, 30 + rank) for rank in range(20)])
    assert "text: 30 to 49 targets, and a target weighs 0.806 to 1.317 of its global weight" in check.detail
    assert "4 more" in markdown(report)


@pytest.mark.parametrize("weight", [0.0, float("nan")])
def test_weights_that_say_nothing_are_not_compared(weight):
    report, check = joined(shard(0, 34, weight), shard(1, 36, weight))
    assert [rank["token_weight"] for rank in report.ranks] == [{}, {}]
    assert check.detail.endswith("text: 34 and 36 targets")


def test_one_rank_has_none_to_compare_with():
    _, check = joined(shard(0))
    assert (check.status, check.detail) == ("skip", "one rank: none to compare it with")


def test_findings_of_every_rank_are_one_finding():
    report, check = joined(*[shard(rank, findings=[finding("LA102", "text", f"copies {rank}")]) for rank in (0, 1)])
    assert [f.message for f in report.findings] == ["copies 0"]
    assert check.status == "pass", "they agree; what they do wrong is told by the other checks"


def test_two_faults_of_one_code_on_one_stream_are_two_findings():
    prompt = finding("LA202", "text", "prompt is labelled", fix="mask it")
    frames = finding("LA202", "text", "frames are labelled", fix="mask the placeholder")
    report, _ = joined(shard(0, findings=[prompt, frames]), shard(1, findings=[frames, prompt]))
    assert [f.message for f in report.findings] == ["prompt is labelled", "frames are labelled"]
    report, _ = joined(shard(0, findings=[prompt]), shard(1, findings=[frames]), shard(2, findings=[frames]))
    assert [f.message for f in report.findings] == ["rank 0: prompt is labelled", "ranks 1 and 2: frames are labelled"]


def test_a_fault_in_the_data_of_one_shard_is_no_disagreement():
    report, check = joined(shard(0), shard(1, findings=[finding("LA203", "text", "no end of turn", count=2)]))
    assert [(f.code, f.message) for f in report.findings] == [("LA203", "rank 1: no end of turn")]
    assert (check.status, check.detail) == ("fail", "rank 1: LA203 no-end-token on text")
    assert report.exit_code == 1


def test_the_lines_of_another_ranks_finding_come_with_it():
    line = Line("train.py", 3, "return loss", "shifts none", mark=(0, 6), indent=4)
    report, _ = joined(shard(0), shard(1, findings=[replace(finding("LA102", "text", "copies"), lines=(line,))]))
    assert report.findings[0].lines == (line,)


def test_a_warning_of_one_shard_fails_nothing():
    report, check = joined(shard(0), shard(1, findings=[finding("LA301", "text", "uneven")]))
    assert (check.status, report.verdict, report.findings[0].message) == ("pass", "pass", "rank 1: uneven")


def test_a_check_that_fails_elsewhere_fails_the_run():
    stuck = Check("training-step", "Training proceeds", "fail", "text did not fall")
    report, check = joined(shard(0), shard(1, checks=[stuck]), shard(2, checks=[stuck]))
    assert (check.status, check.detail) == ("fail", "ranks 1 and 2: training-step fail: text did not fall")
    assert report.exit_code == 1


def test_a_loss_that_runs_on_no_barcoded_batch_is_not_compared():
    alone = result(raised="KeyError: 'speaker'")
    _, check = joined(shard(0, same=alone), shard(1, same=alone))
    assert check.status == "skip"
    assert check.detail.startswith("the loss runs on no barcoded batch (KeyError: 'speaker')")


def test_shards_whose_labels_follow_other_conventions():
    aligned = {"pairing": "shifted", "convention": "position_aligned", "verified": True}
    shifted = {"pairing": "direct", "convention": "pre_shifted", "verified": True}
    report, check = joined(shard(0, decision=aligned), shard(1, decision=shifted))
    assert [(f.code, f.stream) for f in report.findings] == [("LA603", "text")]
    assert "rank 1: pre_shifted, paired direct" in report.findings[0].message
    assert check.status == "fail"
    unproven = shifted | {"verified": False}
    assert joined(shard(0, decision=aligned), shard(1, decision=unproven))[1].status == "pass"


def test_ignoring_the_code_skips_the_check():
    report, check = joined(shard(0), shard(1, same=result(weight_sum=36.0)), keep=lambda found: found.code != "LA603")
    assert (check.status, check.detail, report.findings) == (
        "skip",
        "ignored: LA603 ranks-disagree on all",
        [],
    )
