"""torchtune: its single-device recipes as `tune run` runs them, with the chunked loss and the plain one."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
from pathlib import Path

import torch
import torchtune
from omegaconf import OmegaConf
from rows import Row
from tiny import folder

__all__ = ["ROWS", "Samples", "model"]

VOCAB, LENGTH = 128, 24
SIZES = {"vocab_size": VOCAB, "num_layers": 1, "num_heads": 4, "num_kv_heads": 4, "embed_dim": 32, "max_seq_len": 64}


class Samples(torch.utils.data.Dataset):
    """Prompts and answers; ``shifted``: labels that are one ahead already, under a recipe that shifts them again."""

    def __init__(self, tokenizer, *, shifted=False):
        self.shifted = shifted

    def __len__(self):
        return 8

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        ids = torch.randint(3, VOCAB, (LENGTH - index % 3,), generator=draw)
        labels = ids.masked_fill(torch.arange(len(ids)) < 5, -100)
        return {"tokens": ids.tolist(), "labels": (labels.roll(-1) if self.shifted else labels).tolist()}


class Tokens:
    """What the recipes ask of a tokenizer."""

    pad_id = 0
    max_seq_len = None


def model(**settings):
    """A Llama 3 of one layer, or the same with adapters."""
    from torchtune.models.llama3 import llama3, lora_llama3

    sizes = {**SIZES, "intermediate_dim": 64}
    torch.manual_seed(0)
    return lora_llama3(**sizes, **settings) if settings else llama3(**sizes)


@functools.cache
def recipe(name):
    """The class of a recipe, from the file that `tune run` runs: no module by design."""
    at = Path(torchtune.__file__).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", at)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(made for key, made in vars(module).items() if key.startswith(("FullFinetune", "LoRAFinetune")))


def settings(loss, made, bad):
    """The configuration, in which our model, tokens and samples stand for those that are downloaded."""
    at, out = Path(folder()), folder()
    torch.save(model().state_dict(), at / "model.pt")
    (at / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return OmegaConf.create(
        {
            "output_dir": out,
            "model": {"_component_": "torchtune_rows.model", **made},
            "tokenizer": {"_component_": "torchtune_rows.Tokens"},
            "dataset": {"_component_": "torchtune_rows.Samples", "shifted": bad},
            "checkpointer": {
                "_component_": "torchtune.training.FullModelTorchTuneCheckpointer",
                "checkpoint_dir": str(at),
                "checkpoint_files": ["model.pt"],
                "output_dir": out,
                "model_type": "LLAMA3",
            },
            "optimizer": {"_component_": "torch.optim.SGD", "lr": 0.1},
            "lr_scheduler": {
                "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
                "num_warmup_steps": 0,
            },
            "loss": {"_component_": loss},
            "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": out},
            "batch_size": 2,
            "seed": 0,
            "shuffle": False,
            "epochs": 1,
            "max_steps_per_epoch": 2,
            "gradient_accumulation_steps": 1,
            "optimizer_in_bwd": False,
            "compile": False,
            "device": "cpu",
            "dtype": "fp32",
            "enable_activation_checkpointing": False,
            "enable_activation_offloading": False,
            "resume_from_checkpoint": False,
            "save_adapter_weights_only": False,
            "clip_grad_norm": None,
            "log_every_n_steps": 1,
            "log_level": "ERROR",
            "log_peak_memory_stats": False,
        }
    )


def train(name, loss, made, bad, callbacks):
    logging.disable(logging.CRITICAL)
    try:
        config = settings(loss, made, bad)
        running = recipe(name)(config)
        running.setup(config)
        running.train()
    finally:
        logging.disable(logging.NOTSET)
    return running._model  # a recipe hands its model to nobody


def _row(name, run, loss, **made):
    train_it = functools.partial(train, run, loss, made)
    return Row("torchtune", name, train_it, frozenset({"LA103"}), heads=("output",))


FULL, LORA = "full_finetune_single_device", "lora_finetune_single_device"
CHUNKED, PLAIN = "torchtune.modules.loss.CEWithChunkedOutputLoss", "torch.nn.CrossEntropyLoss"
ADAPTERS = {
    "lora_attn_modules": ["q_proj", "v_proj"],
    "apply_lora_to_mlp": False,
    "apply_lora_to_output": False,
    "lora_rank": 2,
    "lora_alpha": 4,
}
ROWS = (
    _row("full, chunked", FULL, CHUNKED),
    _row("full, plain", FULL, PLAIN),
    _row("LoRA, chunked", LORA, CHUNKED, **ADAPTERS),
    _row("LoRA, plain", LORA, PLAIN, **ADAPTERS),
)
