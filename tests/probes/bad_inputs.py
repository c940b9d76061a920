"""Inputs that somebody has damaged, or means harm with: files of every kind, changed at random from a seed.

Each is given to the command that reads it. A code of ours, one sentence where it is 2 or 3, nothing that a terminal
would obey, and no traceback: whatever the file holds.
"""

import contextlib
import io
import json
import random
import re
from pathlib import Path

import numpy as np
from chat_templates import tokenizer_of

from loss_align import main

#: Values that take the place of others in JSON.
VALUES = (None, True, -1, 1e308, "", "\x1b[2J", "\ud800", "x" * 10_000, [], {}, [[[[[[]]]]]], {"a": {"a": {}}}, 2**70)
#: What a terminal would act upon.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
OWN = "def model():\n    raise AssertionError('a streams file is read before a model is made')\n"
STREAMS = '[text]\nhead = "lm_head"\nids = "input_ids"\nlabels = "labels"\nends = [2]\n'


def changed(text, draw):
    """``text`` with something else in it: bytes cut, doubled, turned or put in."""
    raw = bytearray(text.encode())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(raw) or 1)
        kind = draw.randrange(5)
        if kind == 0:
            raw[at : at + draw.randint(1, 200)] = b""
        elif kind == 1:
            raw[at:at] = raw[at : at + draw.randint(1, 200)]
        elif kind == 2 and raw:
            raw[at] = draw.randrange(256)
        elif kind == 3:
            raw[at:at] = draw.choice((b"\x00", b"\x1b]0;owned\x07", b"\xff\xfe", b"{" * 5000, b"[" * 5000, b"9" * 5000))
        else:
            raw = raw[:at]
    return bytes(raw)


def replaced(value, draw):
    """A JSON value with one part of it, at any depth, replaced, doubled or left out."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {one: part for one, part in value.items() if one != key}
        return value | {key: replaced(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], replaced(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def prepare(folder, model):
    """Files as they should be, and the words that have each read: ``{}`` is the file."""
    folder = Path(folder)
    record = folder / "record.json"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["record", "--model", str(model), "--out", str(record)])
    (folder / "own.py").write_text(OWN)
    tokenizer_of("chatml").save_pretrained(folder / "tokenizer")
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    config = json.loads((Path(model) / "config.json").read_text())
    np.save(folder / "codes.npy", np.zeros((8, 4), dtype=np.int64))
    own = ["--model", f"{folder}/own.py:model", "--batch", f"{folder}/own.py:model", "--loss", f"{folder}/own.py:model"]
    return {
        "record": (json.loads(record.read_text()), ["diff", str(record), "{}"]),
        "baseline": (json.loads(record.read_text()), ["preflight", "--model", str(model), "--baseline", "{}"]),
        "data": (chat, ["preflight", "--model", str(model), "--tokenizer", str(folder), "--data", "{}"]),
        "data set": (chat, ["data", "{}", "--tokenizer", f"{folder}/tokenizer", "--workers", "1"]),
        "token ids": (
            {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "attention_mask": [1, 1, 1]},
            ["data", "{}", "--tokenizer", f"{folder}/tokenizer", "--workers", "1"],
        ),
        "configuration": (config, ["preflight", "--model", "{}"]),
        "streams": (STREAMS, ["preflight", *own, "--streams", "{}"]),
    }


def wrong(words):
    """What a command shows that none may."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except BaseException as error:  # noqa: BLE001 - nothing may come out
        return f"raises {error!r}"
    said = err.getvalue().strip()
    if code not in (0, 1, 2, 3, 4):
        return f"exit code {code}"
    if "Traceback" in said or "an error of its own" in said:
        return said[:300]
    if code in (2, 3) and not said.startswith("loss-align: "):
        return f"exit code {code} says {said[:200]!r}"
    found = CONTROL.search(out.getvalue() + said)
    return f"prints {found.group()!r}" if found else ""


def days(runs, folder, model, seed=0):
    """``runs`` of them, each its name and what was wrong."""
    kinds = prepare(folder, model)
    for number in range(seed, seed + runs):
        draw = random.Random(number)
        kind = draw.choice(sorted(kinds))
        sound, words = kinds[kind]
        if isinstance(sound, str):
            raw = changed(sound, draw)
        else:
            value = replaced(sound, draw) if draw.random() < 0.6 else sound
            text = json.dumps(value)
            raw = text.encode() if value is not sound else changed(text, draw)
        path = Path(folder) / f"input-{kind}"
        if kind == "configuration":
            path.mkdir(exist_ok=True)
            (path / "config.json").write_bytes(raw)
            weights = Path(model) / "model.safetensors"
            if not (path / weights.name).exists():
                (path / weights.name).write_bytes(weights.read_bytes())
        else:
            path.write_bytes(raw)
        yield f"{kind}, seed {number}", wrong([word.format(path) if word == "{}" else word for word in words])
