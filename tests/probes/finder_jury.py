"""The finder alone over the classes of the jury, adapters taken away: streams found, at the offsets of its table.

``python tests/probes/finder_jury.py`` runs them all, prints what is not as expected and counts; ``--dtype`` takes the
model and its batch in another precision. It exits 1 if a stream is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from jury import CODES, LOSSES, NOT_RUN, every_class, own_loss
from lm_batches import batch_for
from lm_tiny import tiny_model
from lm_zoo import DEVIATES

from probes.finder.discover import discover

#: Classes of which the finder is known to say no stream, and why.
SILENT = {
    "BigBirdForCausalLM": "reads ahead as it is configured: every row depends on every id",
    "BigBirdPegasusForConditionalGeneration": "every row depends on every label",
    "CpmAntForCausalLM": "reads ahead: its batch has no prompt of its own",
    "CsmForConditionalGeneration": "makes the codes that it is trained on inside, of the audio",
    "FSMTForConditionalGeneration": "makes the ids of its decoder of those of its encoder",
    "MBartForConditionalGeneration": "begins with the last of as many labels as there are, wherever those stand",
    "PLBartForConditionalGeneration": "begins as mBART does",
    "ProphetNetForCausalLM": "in half precision its n-grams move with its ids by less than rounding",
    "ProphetNetForConditionalGeneration": "in half precision its small model moves with its ids by less than rounding",
    "ReformerModelWithLMHead": "hashes all ids to choose what a row attends to",
    "XLNetLMHeadModel": "reads ahead: a permutation is the loss's to give",
}
#: Offsets of classes whose one head gives several n-grams: each looks a token further ahead.
NGRAMS = {"ProphetNetForConditionalGeneration": {1, 2}, "ProphetNetForCausalLM": {0, 1}}


@dataclass(frozen=True)
class Verdict:
    """``right``, ``silent`` (no stream, with a reason), ``not run``, or ``wrong``."""

    name: str
    status: str
    reason: str = ""


def judge(name, dtype=torch.float32):
    try:
        model, batch = CODES[name]() if name in CODES else (tiny_model(name), batch_for(name))
        model = model.to(dtype)
        batch = {
            key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for key, value in batch.items()
        }
        seen = discover(model, batch, LOSSES.get(name, own_loss))
    except Exception as error:  # noqa: BLE001 - one class in hundreds, of which many cannot be built
        said = NOT_RUN.get(name) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Verdict(name, "not run", said)
    expected = DEVIATES.get(name, (1, (), ""))[0]
    wanted = NGRAMS.get(name, {expected})
    if not seen.found:
        return Verdict(name, "silent", "; ".join([*map(str, seen.unclear), *seen.notes])[:300])
    offsets = {one.offset for one in seen.found}
    if offsets < wanted:
        return Verdict(name, "silent", "; ".join(map(str, seen.unclear)))
    if expected is not None and offsets != wanted:
        told = "; ".join(f"{one.name} {one.head} ids {one.declaration.ids} {one.offset}" for one in seen.found)
        return Verdict(name, "wrong", f"offsets {offsets} for {wanted}: {told}")
    if name not in CODES and len(seen.found) != len(wanted):
        return Verdict(name, "wrong", "; ".join(f"{one.name} {one.head}" for one in seen.found))
    return Verdict(name, "right", "; ".join(map(str, seen.unclear)))


def main():
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    args = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    verdicts = [judge(name, getattr(torch, args.dtype)) for name in args.names or every_class()]
    for one in verdicts:
        if one.status != "right" or one.reason:
            print(f"{one.status:8} {one.name}: {one.reason}")
    counts = Counter(one.status for one in verdicts)
    print(args.dtype, ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
