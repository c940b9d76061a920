"""TRL: supervised fine-tuning in all of its loss and packing modes, preference losses, GRPO and distillation."""

from __future__ import annotations

import functools

import peft.tuners.lora.torchao
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import Row
from tiny import conversations, folder, late, llama, pairs, prompts, tokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from probes import AlignmentCallback

__all__ = ["ROWS"]

# peft refuses the torchao that torchtune needs, also where nothing uses it: it is told that there is none
peft.tuners.lora.torchao.is_torchao_available = lambda: False

SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
#: What one place of a mask too far shows, and one of labels.
MASK, LABELS = frozenset({"LA201", "LA202", "LA203"}), frozenset({"LA102", "LA103", "LA105"})


def moved(trainer, keys, by):
    """The trainer with some entries of its batches one place off, as it comes to its loss."""

    class Moved(trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs = {**inputs, **{key: inputs[key].roll(by, -1) for key in keys if key in inputs}}
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Moved


def lagging(model):
    """What the body gives comes a row late, as from a cache that lags by a step."""

    def lag(module, args, output):
        output.last_hidden_state = output.last_hidden_state.roll(1, 1)
        return output

    model.model.register_forward_hook(lag)
    return model


def trained(trainer):
    torch.manual_seed(3)
    trainer.train()
    return trainer.model


def sft(family, rows, settings, bad, callbacks, *, train_on=None, peft=None):
    tok, config = tokenizer(family), SFTConfig(folder(), **{**SETTINGS, **settings})
    kind = moved(SFTTrainer, ["labels"], -1) if bad else SFTTrainer
    model, data = llama(tok), Dataset.from_list(rows)
    return trained(kind(model, config, train_dataset=data, processing_class=tok, callbacks=callbacks, peft_config=peft))


def wrong_turns(settings, bad, callbacks):
    """The fault of this one is a choice: the whole text is trained, where the answers were declared."""
    return sft("generation", conversations("generation"), {} if bad else settings, False, callbacks)


def preference(kind, config, rows, keys, by, settings, bad, callbacks, **models):
    tok = tokenizer()
    made = {name: make() for name, make in models.items()}
    model = lagging(llama(tok)) if bad and not keys else llama(tok)
    kind = moved(kind, keys, by) if bad else kind
    arguments = config(folder(), **SETTINGS, **settings)
    data = Dataset.from_list(rows)
    return trained(kind(model, args=arguments, train_dataset=data, processing_class=tok, callbacks=callbacks, **made))


def reference():
    return llama(tokenizer())


def teacher():
    """A model that knows other things than the student."""
    model = llama(tokenizer())
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


def distilled(bad, callbacks):
    tok, settings = tokenizer(), {"max_length": 128, "lmbda": 0.0}
    model = late(llama(tok)) if bad else llama(tok)
    data = Dataset.from_list(conversations())
    config = GKDConfig(folder(), **SETTINGS, **settings)
    return trained(
        GKDTrainer(model, teacher(), args=config, train_dataset=data, processing_class=tok, callbacks=callbacks)
    )


def rewarded(completions, **kwargs):
    return [float(n) for n in range(len(completions))]


def grpo(bad, callbacks, **settings):
    tok = tokenizer()
    model = lagging(llama(tok)) if bad else llama(tok)
    torch.manual_seed(0)
    config = GRPOConfig(folder(), max_completion_length=8, num_generations=2, **SETTINGS, **settings)
    data = Dataset.from_list([{"prompt": one["prompt"]} for one in pairs()])
    return trained(
        GRPOTrainer(
            model, reward_funcs=rewarded, args=config, train_dataset=data, processing_class=tok, callbacks=callbacks
        )
    )


def reward(bad, callbacks):
    from transformers import LlamaForSequenceClassification

    tok = tokenizer()
    config = llama(tok).config
    config.num_labels = 1
    torch.manual_seed(0)
    model, data = LlamaForSequenceClassification(config), Dataset.from_list(pairs())
    arguments = RewardConfig(folder(), max_length=64, **SETTINGS)
    return trained(RewardTrainer(model, args=arguments, train_dataset=data, processing_class=tok, callbacks=callbacks))


def _sft(name, family, rows, fault=LABELS, train_on=None, peft=None, **settings):
    train = functools.partial(sft, family, rows, settings, peft=peft)
    return Row("trl", f"SFT, {name}", train, fault, functools.partial(AlignmentCallback, train_on=train_on))


def _pairs(name, kind, config, keys, by, fault, rows=None, models=None, **settings):
    train = functools.partial(preference, kind, config, rows or pairs(), keys, by, settings, **(models or {}))
    return Row("trl", name, train, fault, AlignmentCallback)


def _marked():
    return [
        {"prompt": one["prompt"], "completion": one["chosen" if n % 2 else "rejected"], "label": bool(n % 2)}
        for n, one in enumerate(pairs())
    ]


GENERATION = conversations("generation")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
_dpo = functools.partial(
    _pairs,
    kind=DPOTrainer,
    config=DPOConfig,
    keys=["completion_mask"],
    by=1,
    fault=MASK,
    models={"ref_model": reference},
)
_unpaired = functools.partial(_pairs, keys=["chosen_labels", "rejected_labels"], by=-1, fault=LABELS, max_length=64)

ROWS = (
    _sft("messages", "chatml", conversations()),
    _sft("plain text", "chatml", [{"text": f"some plain text, number {n}"} for n in range(6)]),
    _sft("answers alone", "generation", GENERATION, train_on="assistant", assistant_only_loss=True),
    Row(
        "trl",
        "SFT, answers declared and the whole text trained",
        functools.partial(wrong_turns, {"assistant_only_loss": True}),
        frozenset({"LA208"}),
        functools.partial(AlignmentCallback, train_on="assistant"),
        blind={"run": "the table declares nothing to run: --train-on does"},
    ),
    _sft("completion alone", "chatml", prompts(), train_on="last"),
    _sft("prompt and completion", "chatml", prompts(), train_on="all", completion_only_loss=False),
    _sft("packed", "chatml", conversations(), packing=True, max_length=256),
    _sft("packed, wrapped", "chatml", conversations(), packing=True, packing_strategy="wrapped", max_length=128),
    _sft(
        "packed, answers alone",
        "generation",
        GENERATION,
        train_on="assistant",
        packing=True,
        max_length=512,
        assistant_only_loss=True,
    ),
    _sft("padding free", "chatml", conversations(), padding_free=True, max_length=None),
    _sft(
        "padding free, answers alone",
        "generation",
        GENERATION,
        train_on="assistant",
        padding_free=True,
        max_length=None,
        assistant_only_loss=True,
    ),
    _sft("chunked loss", "chatml", conversations(), loss_type="chunked_nll"),
    _sft("DFT loss", "chatml", conversations(), loss_type="dft"),
    _sft("accumulated", "chatml", conversations(), gradient_accumulation_steps=2),
    _sft("bfloat16", "chatml", conversations(), bf16=True),
    _sft("checkpointed", "chatml", conversations(), gradient_checkpointing=True),
    _sft("NEFTune", "chatml", conversations(), neftune_noise_alpha=5.0),
    _sft("LoRA", "chatml", conversations(), peft=LORA),
    _dpo("DPO, sigmoid"),
    _dpo("DPO, IPO", loss_type="ipo"),
    _dpo("DPO, hinge", loss_type="hinge"),
    _dpo("DPO, with SFT", loss_type=["sigmoid", "sft"]),
    _dpo("DPO, padding free", padding_free=True),
    _pairs(
        "KTO",
        KTOTrainer,
        KTOConfig,
        ["completion_mask"],
        1,
        MASK,
        rows=_marked(),
        models={"ref_model": reference},
        max_length=64,
    ),
    _unpaired("CPO", CPOTrainer, CPOConfig),
    _unpaired("CPO, SimPO", CPOTrainer, CPOConfig, loss_type="simpo", cpo_alpha=0.0),
    _unpaired("ORPO", ORPOTrainer, ORPOConfig, keys=[]),
    Row("trl", "GRPO", grpo, LABELS, AlignmentCallback),
    Row("trl", "GRPO, Dr. GRPO", functools.partial(grpo, loss_type="dr_grpo"), LABELS, AlignmentCallback),
    Row("trl", "GKD", distilled, frozenset({"LA103"}), AlignmentCallback, right=frozenset({"LA802"})),
    Row("trl", "reward", reward, frozenset(), AlignmentCallback, right=frozenset({"LA804"})),
)
