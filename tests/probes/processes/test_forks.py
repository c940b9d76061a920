"""Processes that a script forks, and a script that makes another program of its process: watched as what it starts."""

import json
import os
from pathlib import Path

import pytest

from probes.processes.children import PREFIX

ROOT = Path(__file__).parents[3]

#: A training to be forked, and what forks it.
SCRIPT = """\
import multiprocessing, os, signal, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}}
forks = multiprocessing.get_context("fork")


def made():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).train()
    return model, torch.optim.SGD(model.parameters(), 0.1)


def steps(model, optimizer, shift, count=3, workers=0):
    for ids in DataLoader(torch.randint(0, 64, (2 * count, 12)), batch_size=2, num_workers=workers):
        logits = model(input_ids=ids, use_cache=False).logits
        F.cross_entropy(logits[:, : 12 - shift].flatten(0, 1), ids[:, shift:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def train(shift, count=3):
    steps(*made(), shift, count)


def train_until_killed(shift):
    train(shift, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def rank(number, shift):
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath("store"), rank=number, world_size=2)
    model, optimizer = made()
    torch.manual_seed(number)
    steps(DistributedDataParallel(model), optimizer, shift)
    dist.destroy_process_group()


def fork(target, *args):
    process = forks.Process(target=target, args=args)
    process.start()
    return process


{what}
"""


@pytest.fixture
def run(tmp_path, warm):
    """Run the script, which does ``what``, watched: exit code, report, standard error."""

    def ran(what, *before):
        script, out = tmp_path / "train.py", tmp_path / "r.json"
        script.write_text(SCRIPT.format(what=what))
        environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = ["-m", "loss_align", "run", "--json", out, *before, script]
        done = warm.python(*words, cwd=tmp_path, env=environ)
        return done.returncode, json.loads(out.read_text(encoding="utf-8")), done.stderr

    return ran


def codes(report):
    return [found["code"] for found in report["findings"]]


def told_of_others(report):
    return next((check["detail"] for check in report["checks"] if check["id"] == "trainings"), "")


def test_forked_trainings_are_told_and_workers_are_not(run):
    what = """\
for shift in (1, 0):
    fork(train, shift).join()
steps(*made(), 1, workers=2)
"""
    code, report, err = run(what)
    assert (code, codes(report)) == (1, ["LA102"]), err
    assert report["findings"][0]["message"].startswith("a fork of train.py: ")
    told = told_of_others(report)
    assert (told.count("PASS"), told.count("FAIL"), told.count("a fork of train.py")) == (1, 1, 2), told


def test_a_fork_of_a_training_is_judged_by_what_it_does_itself(run):
    what = """\
model, optimizer = made()
steps(model, optimizer, 1, 1)
child = os.fork()
steps(model, optimizer, 1 if child else 0)
if child:
    os.waitpid(child, 0)
"""
    code, report, err = run(what)
    assert (code, codes(report)) == (1, ["LA102"]), err
    assert report["findings"][0]["message"].startswith("a fork of train.py: ")
    assert err.count("a fork of train.py trains as well") == 1


def test_a_fork_that_is_killed_before_it_could_tell_is_no_pass(run):
    code, report, err = run("fork(train_until_killed, 0).join()\ntrain(1)\n")
    assert (code, report["verdict"], codes(report)) == (0, "incomplete", ["LA804"]), err
    assert "a fork of train.py was not watched: it was killed, or still runs" in report["findings"][0]["message"]


#: Makes another program of its process, in an environment that holds nothing of ours.
AGAIN = f"""\
path = {{"PYTHONPATH": {str(ROOT)!r}, "OMP_NUM_THREADS": "1"}}
try:
    os.execvpe("no-such-program", ["no-such-program"], path)
except FileNotFoundError:
    os.execle(sys.executable, sys.executable, "again.py", path)
"""


def test_a_script_that_makes_another_program_of_its_process_ends_as_that_does(run, tmp_path):
    again = "import os, sys\nprint(os.environ['PYTHONPATH'], file=sys.stderr)\nsys.exit(7)\n"
    (tmp_path / "again.py").write_text(again)
    code, report, err = run(AGAIN)
    assert (code, codes(report)) == (7, ["LA804"])
    folder, *path = err.splitlines()[0].split(os.pathsep)
    assert (Path(folder).name.startswith(PREFIX), Path(folder).exists(), path) == (True, False, [str(ROOT)])
    assert "the script ended with exit code 7 before any model was trained" in err


@pytest.mark.deep
@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102"])])
def test_a_script_that_starts_itself_anew_is_followed(shift, found, run, tmp_path):
    (tmp_path / "again.py").write_text(SCRIPT.format(what=f"train({shift})"))
    code, report, err = run(AGAIN)
    assert (code, codes(report)) == (1 if found else 0, found), err
    assert report["streams"]["text"]["supervised"]


@pytest.mark.deep
@pytest.mark.parametrize("before", [[], ["--"]], ids=["script", "command"])
@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102"])])
def test_forked_ranks_are_one_report(shift, found, before, run):
    what = f"for one in [fork(rank, number, {shift}) for number in range(2)]:\n    one.join()\n"
    code, report, err = run(what, *before)
    assert (code, codes(report), len(report["ranks"])) == (1 if found else 0, found, 2), err
