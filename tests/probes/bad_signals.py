"""A signal at every 50 ms of every command: forked from a process whose imports are done, one run for each moment.

The same forks run a command under a clock that jumps. A run writes into a folder in which reports of an earlier one
stand: whatever ends it, none of these may look like its own.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chat_templates import tokenizer_of
from lm_tiny import tiny_model

import loss_align
from loss_align import command, main

STEP = 0.05
#: Before its words are read the process of a script ends as under ``python``.
READ = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Nothing takes longer, on any machine.
LONGEST = 120
STALE = {"schema": 1, "verdict": "pass", "stale": True}
OWN = """
import torch, torch.nn.functional as F
def batch(model):
    ids = torch.arange(20).reshape(2, 10) + 3
    return {"input_ids": ids, "labels": ids}
def loss(model, batch):
    return F.cross_entropy(model(batch["input_ids"]).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
"""
SCRIPT = """

from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("model")
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(4):
    ids = torch.randint(3, 60, (2, 10))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
CHAT = '{"prompt": "a question", "completion": "an answer"}\n'
REPORTS = ("--json", "r.json", "--html", "r.html", "--junit", "r.xml", "--markdown", "r.md")
COMMANDS = {
    "preflight": ("preflight", "--model", "model", *REPORTS),
    "own loss": (
        "preflight",
        "--model",
        "model",
        "--batch",
        "own.py:batch",
        "--loss",
        "own.py:loss",
        "--json",
        "r.json",
    ),
    "explain": ("explain", "--model", "model", "--json", "r.json", "--html", "r.html"),
    "record": ("record", "--model", "model", "--out", "o.json"),
    "diff": ("diff", "old.json", "old.json", "--json", "r.json"),
    "data": ("data", "chat.jsonl", "--tokenizer", "tokenizer", "--workers", "2", *REPORTS),
    "discover": ("discover", "--model", "model", "--batch", "own.py:batch", "--loss", "own.py:loss", "--out", "o.toml"),
    "fuzz": ("fuzz", "--model", "model", "--examples", "4", "--json", "r.json"),
    "run": ("run", "--json", "r.json", "--html", "r.html", "script.py"),
    "rules": ("rules",),
    "env": ("env",),
}


def prepare(folder):
    """What the commands read."""
    os.chdir(folder)
    tiny_model("LlamaForCausalLM").save_pretrained("model")
    Path("own.py").write_text(OWN)
    Path("script.py").write_text(SCRIPT)
    tokenizer_of("chatml").save_pretrained("tokenizer")
    Path("chat.jsonl").write_text(CHAT * 2000)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["record", "--model", "model", "--out", "old.json"]) == 0


@dataclass(frozen=True)
class Ended:
    """A run: its exit code (negative for a signal), what it said, and how long it took."""

    code: int
    said: str
    seconds: float


def forked(words, prelude=lambda: None, number=None, at=0.0):
    """Run a command in a copy of this process, and send it a signal; its reports of an earlier run stand there."""
    for name in ("r.json", "r.html", "r.xml", "r.md"):
        Path(name).unlink(missing_ok=True)
    Path("r.json").write_text(json.dumps(STALE))
    sys.stdout.flush()
    ready, begins = os.pipe()
    child = os.fork()
    if not child:
        _become(words, prelude, begins)
    os.close(begins)
    os.read(ready, 1)
    os.close(ready)
    began = time.monotonic()
    status = _waited(child, at)
    if status is None and number is not None:
        os.kill(child, number)
    if status is None:
        status = _waited(child, LONGEST)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Ended(-signal.SIGKILL, "", LONGEST)
    said = Path(".said").read_text(encoding="utf-8", errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - began)


def _waited(child, seconds):
    """The status of a child that has ended in time; else None."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            return status if ended else None
        time.sleep(0.002)


def _become(words, prelude, begins):
    """Be the command; never returns."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        said = os.open(".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["loss-align", *words]
        loss_align.PATIENCE = LONGEST  # this process ends otherwise
        prelude()
        _told_when_begun(begins)
        code = command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        code = 130
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _told_when_begun(begins):
    """A byte for whoever waits, once the command answers signals: before, they end it as they end any process."""
    owners = loss_align.other_owners

    def first():
        os.write(begins, b".")
        return owners()

    loss_align.other_owners = first


def wrong(words, ended, quiet, number=None, at=READ):
    """What a run shows that none may; ``quiet`` is the code of an undisturbed one, ``at`` when the signal came."""
    scripted = words[0] == "run"
    if ended.seconds >= LONGEST:
        return "does not end"
    if "Traceback" in ended.said and not scripted:
        return f"a traceback: {ended.said[-300:]}"
    cut = number is not None and ended.code != quiet
    allowed = {3, 130, 143, -signal.SIGINT, -signal.SIGTERM} if scripted else {3}
    if ended.code != quiet and not (cut and ended.code in allowed):
        return f"exit code {ended.code}, not {quiet}: {ended.said[-300:]}"
    if cut and not scripted:
        told = "loss-align: " + {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}[number]
        if not ended.said.strip().rpartition("\n")[2].startswith(told):
            return f"ends with {ended.said.strip()[-200:]!r}"
    return "" if scripted and ended.code != 3 and at < READ else _left(words, cut=cut)


def _left(words, *, cut):
    """What is wrong with the files that a run has left."""
    odd = [one.name for one in Path().iterdir() if one.name.endswith(".part") or one.name in (".hypothesis", ".pytest")]
    if odd:
        return f"leaves {odd} behind"
    with contextlib.suppress(FileNotFoundError):
        json.loads(Path("o.json").read_text())
    if "r.json" not in words:
        return ""
    report = json.loads(Path("r.json").read_text())
    if report.get("stale"):
        return "the report of an earlier run stands"
    if cut and report["verdict"] == "pass" and "error" in report:
        return "a report that says pass, and an error"
    page = Path("r.html")
    if page.exists() and not page.read_text().rstrip().endswith("</html>"):
        return "half of a page"
    return ""


def days(runs, seed=0, names=tuple(COMMANDS)):
    """At most ``runs`` of them: each command by itself, then each signal at every 50 ms of it, in turn."""
    quiet, moments = {}, []
    for name in names:
        ended = forked(COMMANDS[name])
        quiet[name] = ended.code
        yield f"{name}, undisturbed", wrong(COMMANDS[name], ended, ended.code)
        for count in range(int(ended.seconds / STEP) + 1):
            moments += [(name, number, count * STEP) for number in SIGNALS]
    random.Random(seed).shuffle(moments)
    for name, number, at in moments[: max(0, runs - len(names))]:
        ended = forked(COMMANDS[name], number=number, at=at)
        yield f"{name}, {number.name} at {at:.2f} s", wrong(COMMANDS[name], ended, quiet[name], number, at)


# -- a clock that jumps ----------------------------------------------------------------------------------


def jumping(seed):
    """Every clock of the process jumps at every look: the wall's anywhere, the others ahead."""
    draw, ahead = random.Random(seed), 0.0

    def wall():
        return draw.uniform(0, 4e9)

    def steady():
        nonlocal ahead
        ahead += draw.choice((0.0, 0.1, 1e4))
        return ahead

    time.time, time.monotonic, time.perf_counter = wall, steady, steady


def told():
    """What the report says, without when it was written."""
    report = json.loads(Path("r.json").read_text())
    return {
        key: value for key, value in report.items() if key in ("verdict", "checks", "findings", "streams", "losses")
    }


def clock_days(runs, seed=0):
    """The commands that report, each against itself under a clock that keeps its time."""
    names = [name for name, words in COMMANDS.items() if "r.json" in words]
    steady = {}
    for number in range(runs):
        name = names[number % len(names)]
        words = COMMANDS[name]
        if name not in steady:
            steady[name] = (forked(words).code, told())
        ended = forked(words, prelude=lambda number=number: jumping(seed + number))
        odd = wrong(words, ended, steady[name][0])
        yield f"{name}, clock {seed + number}", odd or ("" if told() == steady[name][1] else "the report differs")
