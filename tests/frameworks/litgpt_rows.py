"""litgpt: its own full and LoRA fine-tuning, from a checkpoint folder and a file of instructions."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import warnings
from pathlib import Path

import torch
from litgpt import GPT, Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import JSON
from litgpt.utils import save_config
from rows import Row
from tiny import folder, tokenizer

__all__ = ["ROWS"]

SIZES = {"n_layer": 1, "n_head": 4, "n_embd": 32, "intermediate_size": 64, "block_size": 512, "padded_vocab_size": 320}


class Saved:
    """A model as its training has left it in a file."""

    def __init__(self, path):
        saved = torch.load(path)
        self._weights = saved.get("model", saved)

    def state_dict(self):
        return self._weights


def checkpoint():
    """A folder that litgpt takes for a downloaded checkpoint."""
    at = Path(folder()) / "tiny"
    at.mkdir()
    tokenizer("chatml").save_pretrained(at)
    config = Config(name="tiny", vocab_size=300, rotary_percentage=1.0, **SIZES)
    torch.manual_seed(0)
    torch.save(GPT(config).state_dict(), at / "lit_model.pth")
    save_config(config, at)
    return at


def instructions():
    at = Path(folder()) / "data.json"
    said = [{"instruction": f"What is {n}?", "output": f"It is {n}, and no more."} for n in range(12)]
    at.write_text(json.dumps(said), encoding="utf-8")
    return at


def train(recipe, masked, micro, settings, bad, callbacks):
    """``litgpt finetune ...``; the fault is a loss that is handed targets of one place further on."""
    module = importlib.import_module(f"litgpt.finetune.{recipe}")
    out, own = Path(folder()), module.chunked_cross_entropy

    def further(logits, targets, *args, **kwargs):
        return own(logits, targets.roll(-1, -1), *args, **kwargs)

    steps = TrainArgs(
        global_batch_size=4, micro_batch_size=micro, lr_warmup_steps=1, epochs=1, max_steps=2, max_seq_length=512
    )
    quiet = EvalArgs(interval=100, max_new_tokens=1, max_iters=1, initial_validation=False, final_validation=False)
    data = JSON(instructions(), mask_prompt=masked, val_split_fraction=0.2, num_workers=0)
    at, words = checkpoint(), sys.argv
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.chunked_cross_entropy = further if bad else own
        sys.argv = ["litgpt", str(at)]  # it writes down with what it was called, and refuses what it does not know
        try:
            module.setup(at, out, data=data, train=steps, eval=quiet, precision="32-true", **settings)
        finally:
            module.chunked_cross_entropy, sys.argv = own, words
    return Saved(next((out / "final").glob("lit_model.pth*")))


def _row(name, recipe, *, masked=False, micro=4, right=frozenset(), **settings):
    run = functools.partial(train, recipe, masked, micro, settings)
    return Row("litgpt", name, run, frozenset({"LA103", "LA105"}), right=right)


ROWS = (
    _row("full", "full"),
    _row("full, prompts masked", "full", masked=True),
    # a mean of means: it divides by the number of micro-batches, whatever each of them holds
    _row("full, accumulated", "full", micro=2, right=frozenset({"LA302"})),
    _row("LoRA", "lora", lora_r=8),
    _row("LoRA, prompts masked", "lora", masked=True, lora_r=8),
)
