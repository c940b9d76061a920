"""The frameworks table: real training loops of real packages, watched by callback and by ``run``.

    tox run -e frameworks                        the whole table
    tox run -e frameworks -- python tests/frameworks/table.py trl "DPO"    rows whose package or name says so

A row holds where its right form shows nothing (or what it shows by right), its planted fault shows its code, and the
weights are bit for bit the same with and without us. The exit code is 1 where one does not.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

for place in (Path(__file__).parent, Path(__file__).parents[1] / "probes", Path(__file__).parents[1]):
    sys.path.insert(0, str(place))

from rows import CALLBACK, digest  # noqa: E402 - they lie beside this script

__all__ = ["held", "rows"]


def rows(words=()):
    """The rows in which one of these words stands; all of them without."""
    from lightning_rows import ROWS as LIGHTNING
    from litgpt_rows import ROWS as LITGPT
    from torchtune_rows import ROWS as TORCHTUNE
    from trainer_rows import ROWS as TRAINER
    from trl_rows import ROWS as TRL

    every = [*TRL, *TRAINER, *LIGHTNING, *LITGPT, *TORCHTUNE]
    return [row for row in every if not words or any(word in f"{row.package}: {row.name}" for word in words)]


def quietly(train):
    """What a training returns, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return train()


def _seen(row, door, bad):
    """What one door says of one form, and the weights afterwards."""
    if door == CALLBACK:
        callback = row.callback("report")
        model = quietly(lambda: row.train(bad, [callback]))
        return callback.report, digest(model)
    from live_runs import watched

    models = []
    report, _ = quietly(lambda: watched(lambda: models.append(row.train(bad, [])), steps=2, heads=row.heads))
    return report, digest(models[0])


def held(row):
    """What does not hold of a row, in words; empty where all does. Beside it, what was seen, by door."""
    wrong, told = [], {}
    for door in row.doors:
        right, weights = _seen(row, door, False)
        codes = {one.code for one in right.findings}
        if right.error or codes != row.right:
            wrong.append(f"{door}: right form {right.verdict} {right.error} {sorted(codes)}")
        if weights != digest(quietly(lambda: row.train(False, []))):
            wrong.append(f"{door}: other weights with us than without")
        told[door] = [right.verdict]
        if row.fault and door not in row.blind:
            codes = {one.code for one in _seen(row, door, True)[0].findings}
            if not codes & row.fault:
                wrong.append(f"{door}: fault {sorted(codes)}, of {sorted(row.fault)} none")
            told[door].append(" ".join(sorted(codes)))
    return wrong, told


def main(words):
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="offline")
    failed, begun = 0, time.time()
    print("| package | loop | callback: right, fault | run: right, fault | same weights |")
    print("|---|---|---|---|---|")
    for row in rows(words):
        try:
            wrong, told = held(row)
        except (Exception, SystemExit):  # noqa: BLE001 - a row that breaks fails, and the others are still told
            wrong, told = [traceback.format_exc()], {}
        failed += bool(wrong)
        cells = [", ".join(told[door]) if door in told else "" for door in ("callback", "run")]
        same = "no" if any("other weights" in one for one in wrong) else "yes"
        print(f"| {row.package} | {row.name} | {cells[0]} | {cells[1]} | {same} |", flush=True)
        for one in wrong:
            print(f"  does not hold: {one}", file=sys.stderr, flush=True)
    print(f"\n{failed} rows do not hold; {time.time() - begun:.0f} seconds")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
