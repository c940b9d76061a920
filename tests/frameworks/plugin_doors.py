"""Doors of frameworks that pin other releases than each other: each in folders of its own, as before_after.py has them.

    tox run -e frameworks -- python tests/frameworks/plugin_doors.py           all of them
    tox run -e frameworks -- python tests/frameworks/plugin_doors.py swift     some

A door holds where the right form is a PASS and the planted fault ends the training with its code. The exit code is 1
where one does not. With ``--inside NAME`` it is the process in which one of them trains.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import re
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

from before_after import LONGEST, ROOT, environment, installed

__all__ = ["DOORS", "Door"]

FIXTURES = ROOT / "fixtures" / "doors"
#: What both of them train with: releases that their pins allow.
PINS = ("transformers==4.57.6", "trl==0.24.0", "peft==0.18.1", "accelerate==1.11.0", "datasets==4.0.0")


@dataclass(frozen=True)
class Door:
    """One framework.

    Attributes:
        name: of its door, and of the function here that trains.
        release: of the framework, without what it requires.
        alone: what its import asks for besides, without what that requires.
        pins: releases that it is given in place of those of this environment.
        fault: the code that the planted fault must show.
    """

    name: str
    release: str
    alone: tuple[str, ...]
    pins: tuple[str, ...]
    fault: str


DOORS = (
    Door("llamafactory", "llamafactory==0.9.5", (), PINS, "LA208"),
    Door(
        "swift",
        "ms-swift==4.6.0",
        ("addict", "modelscope", "modelscope_hub", "json_repair", "einops"),
        (*PINS[:-1], "datasets==4.8.4"),
        "LA208",
    ),
    Door("axolotl", "axolotl==0.19.0", ("addict",), (), "LA103"),
)


# -- inside --------------------------------------------------------------------------------------------


def saved(folder):
    """A tiny model with its tokenizer, in files."""
    from tiny import llama, tokenizer

    made = tokenizer("chatml")
    llama(made).save_pretrained(folder / "model")
    made.save_pretrained(folder / "model")
    return str(folder / "model")


def llamafactory(folder, bad):
    """``run_exp`` with a callback; the fault is its option that trains prompts, where answers were declared."""
    # it imports a decoder of sounds, which this torch has no release of, and texts have no use for
    sound = types.ModuleType("torchaudio")
    sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = sound
    from llamafactory.train.tuner import run_exp

    from probes import AlignmentCallback

    said = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}, no more."} for n in range(8)]
    (folder / "data.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "data.json"}}), encoding="utf-8")
    settings = {
        "model_name_or_path": saved(folder),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "mine",
        "dataset_dir": str(folder),
        "template": "chatml",
        "cutoff_len": 128,
        "train_on_prompt": bad,
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
    }
    run_exp(settings, callbacks=[AlignmentCallback(train_on="assistant")])


def swift(folder, bad):
    """``swift sft`` with our plugin, which declares answers; the fault is its option that trains everything."""
    from swift.pipelines import sft_main

    turns = [
        [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}, no more."}]
        for n in range(8)
    ]
    data = folder / "data.jsonl"
    data.write_text("\n".join(json.dumps({"messages": one}) for one in turns), encoding="utf-8")
    words = {
        "model": saved(folder),
        "model_type": "llama",
        "template": "chatml",
        "dataset": str(data),
        "tuner_type": "full",
        "torch_dtype": "float32",
        "output_dir": str(folder / "out"),
        "external_plugins": str(FIXTURES / "swift_plugin.py"),
        "callbacks": "loss_alignment",
        "loss_scale": "all" if bad else "default",
        "max_steps": "1",
        "per_device_train_batch_size": "2",
        "use_cpu": "true",
        "save_strategy": "no",
        "report_to": "none",
        "split_dataset_ratio": "0",
        "use_logits_to_keep": "false",
    }
    sft_main([word for key, value in words.items() for word in (f"--{key}", value)])


def axolotl(folder, bad):
    """What its plugin manager hands on, at transformers' own Trainer; the fault is in the labels of the data."""
    sys.path.insert(0, str(FIXTURES))
    from axolotl.integrations.base import PluginManager
    from tiny import llama, tokenizer
    from trainer_rows import SETTINGS, causal
    from transformers import Trainer, TrainingArguments

    manager = PluginManager.get_instance()
    manager.register("axolotl_plugin.LossAlignment")
    samples = [causal(index) for index in range(8)]
    if bad:
        samples = [{**one, "labels": one["labels"].roll(-1)} for one in samples]
    trainer = Trainer(llama(tokenizer()), TrainingArguments(str(folder), **SETTINGS), train_dataset=samples)
    for callback in manager.add_callbacks_post_trainer(None, trainer):
        trainer.add_callback(callback)
    trainer.train()


def inside(name, bad):
    """Train, and say of the report what it says."""
    from probes import AlignmentCallback
    from probes.report import LossAlignmentError

    reports, own = [], AlignmentCallback._tell

    def tell(callback, trainer, report):
        reports.append(report)
        own(callback, trainer, report)

    AlignmentCallback._tell = tell
    ended = "trained"
    with tempfile.TemporaryDirectory() as folder:
        try:
            {one.__name__: one for one in (llamafactory, swift, axolotl)}[name](Path(folder), bad)
        except LossAlignmentError:
            ended = "ended"
    for report in reports:
        print("told:", report.verdict, *sorted({one.code for one in report.findings}), ended)


# -- outside -------------------------------------------------------------------------------------------


def told(door, bad, folder):
    """Verdict, codes and how the training went, of one form at one door; beside it all that was printed."""
    alone = [str(installed(one, folder)) for one in (door.release, *door.alone)]
    path = [*alone, environment(door.pins, folder), str(Path(__file__).parent), str(ROOT / "tests" / "probes")]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DISABLE_VERSION_CHECK": "1"}
    apart = "import sys, runpy; sys.modules['torchao'] = None; sys.argv[0] = 'doors'; "
    apart += f"runpy.run_path({str(Path(__file__))!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", apart, "--inside", door.name, *(["--bad"] if bad else [])],
        env={**os.environ, **quiet, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    found = re.findall(r"^told: (.*)$", done.stdout, flags=re.MULTILINE)
    return " ".join(found), done.stdout + done.stderr


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="doors whose name begins with one of these")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the releases are installed to stay")
    parser.add_argument("--inside", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--bad", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.inside:
        return inside(given.inside, given.bad)
    failed = 0
    with tempfile.TemporaryDirectory() as own:
        for door in DOORS:
            if given.names and not door.name.startswith(tuple(given.names)):
                continue
            for bad, due in ((False, "pass trained"), (True, f"fail {door.fault} ended")):
                said, printed = told(door, bad, (given.keep or Path(own)).resolve())
                failed += said != due
                print(door.release, "fault:" if bad else "right:", said, flush=True)
                if said != due:
                    print(f"  {due} is due\n{printed[-3000:]}", file=sys.stderr, flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
