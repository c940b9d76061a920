"""A large data set with faults planted at known lines: swept, counted exactly, timed, and what it holds at most.

::

    python tests/probes/data_lines.py --lines 1000000 --workers 2
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from chat_templates import tokenizer_of

from probes.sweep import known_of, swept
from probes.sweep.source import FileSource

#: A fault at each line whose number leaves this rest.
EVERY = 1000
PLANTED = {7: "empty", 11: "no answer", 13: "long", 17: "broken", 19: "no end", 23: "late"}
LONGEST = 160


def line(number, tokenizer):
    """One line: a conversation, or token ids where the fault is one of labels."""
    asked = {"role": "user", "content": f"what is {number} and two?"}
    said = {"role": "assistant", "content": f"it is {number + 2}."}
    fault = PLANTED.get(number % EVERY)
    if fault == "broken":
        return '{"messages": [{"role": "user"'
    if fault == "no answer":
        return json.dumps({"messages": [asked]})
    if fault in ("no end", "late"):
        return json.dumps(_labelled(tokenizer, [asked, said], fault))
    said["content"] = {"empty": "", "long": "so on " * 40}.get(fault, said["content"])
    return json.dumps({"messages": [asked, said]})


def _labelled(tokenizer, messages, fault):
    """Ids and labels as a trainer makes them whose mask ends, or begins, a token off."""
    ids = [
        tokenizer(tokenizer.apply_chat_template(part, tokenize=False), add_special_tokens=False)["input_ids"]
        for part in (messages[:1], messages)
    ]
    begin = len(ids[0]) + len("<|im_start|>assistant\n") - len("<|im_start|>") + 1
    labels = [-100] * begin + ids[1][begin:]
    labels[-1] = -100
    if fault == "late":
        labels[begin] = -100
    else:
        labels[-2] = -100
    return {"input_ids": ids[1], "labels": labels}


def written(path, lines, tokenizer):
    """The file of so many lines."""
    with path.open("w") as file:
        file.writelines(f"{line(number, tokenizer)}\n" for number in range(lines))
    return path


def expected(lines):
    """How many samples of each kind it holds."""
    times = {fault: sum(1 for number in range(rest, lines, EVERY)) for rest, fault in PLANTED.items()}
    return {
        "no-target": times["empty"] + times["no answer"],
        "no-end": times["no end"],
        "begins-late": times["late"],
        "cut-off": times["long"],
        "empty-answer": times["empty"],
    }, times["broken"]


def measured(lines, workers, folder):
    """What was counted, what should have been, samples a second, and MiB at most (of the largest process)."""
    tokenizer = tokenizer_of("chatml")
    path = written(Path(folder) / "data.jsonl", lines, tokenizer)
    began = time.monotonic()
    tally = swept(FileSource(path), known_of(tokenizer, longest=LONGEST), workers=workers)
    rate = lines / (time.monotonic() - began)
    held = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) >> 10
    counted = tally.as_dict()
    return (counted["kinds"], counted["unreadable"]), expected(lines), rate, held


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found, wanted, rate, held = measured(args.lines, args.workers, folder)
    print(f"{args.lines:,} lines: {rate:,.0f} a second, {held:,} MiB at most")
    print(f"counted {found}\nplanted {wanted}")
    return int(found != wanted)


if __name__ == "__main__":
    sys.exit(main())
