"""transformers: Trainer with its own losses, and Seq2SeqTrainer with T5, BART and Whisper."""

from __future__ import annotations

import functools

import torch
from rows import Row
from tiny import SIZES, folder
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from probes import AlignmentCallback

__all__ = ["ROWS"]

VOCAB, LENGTH, MASKED = 128, 20, 4
SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
}


def llama():
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, pad_token_id=0, **SIZES))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=1))


def bert():
    return BertForMaskedLM(BertConfig(vocab_size=VOCAB, **SIZES))


def t5():
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, **sizes))


def _sides(**more):
    sides = {
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 4))
    }
    sides |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 2}
    return {"vocab_size": VOCAB, "d_model": 32, **sides, **ids, **more}


def bart():
    return BartForConditionalGeneration(BartConfig(**_sides(forced_eos_token_id=1)))


def whisper():
    sizes = _sides(num_mel_bins=8, max_source_positions=16, max_target_positions=32)
    return WhisperForConditionalGeneration(WhisperConfig(**sizes, suppress_tokens=None, begin_suppress_tokens=None))


def causal(index):
    ids = torch.randint(10, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(index))
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(LENGTH) < MASKED + index % 3, -100)}


def masked(index):
    draw = torch.Generator().manual_seed(index)
    ids = torch.randint(10, VOCAB, (LENGTH,), generator=draw)
    hidden = torch.rand(LENGTH, generator=draw) < 0.3
    hidden[0] = True
    return {"input_ids": ids.masked_fill(hidden, MASKED), "labels": ids.masked_fill(~hidden, -100)}


def paired(index):
    draw = torch.Generator().manual_seed(index)
    source = torch.randint(10, VOCAB, (LENGTH,), generator=draw)
    said = torch.randint(10, VOCAB, (LENGTH,), generator=draw)
    said[-1] = 1
    return {"input_ids": source, "labels": said}


def heard(index):
    draw = torch.Generator().manual_seed(index)
    return {"input_features": torch.randn(8, 32, generator=draw), "labels": paired(index)["labels"]}


def shifted_again(trainer):
    """The labels of a collator that has shifted them already, under a loss that shifts again."""

    class Again(trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs = {**inputs, "labels": inputs["labels"].roll(-1, 1)}
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Again


def fed_unshifted(trainer):
    """Decoder ids that are the labels themselves: every row has read what it is to say."""

    class Unshifted(trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs = {**inputs, "decoder_input_ids": inputs["labels"].clamp(min=0)}
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Unshifted


def train(kind, arguments, make, sample, plant, settings, bad, callbacks):
    torch.manual_seed(0)
    model, config = make(), arguments(folder(), **{**SETTINGS, **settings})
    kind = plant(kind) if bad else kind
    trainer = kind(model, config, train_dataset=[sample(index) for index in range(8)], callbacks=callbacks)
    trainer.train()
    return model


def _trainer(name, make, sample=causal, *, fault=frozenset({"LA103", "LA105"}), blind=None, **settings):
    run = functools.partial(train, Trainer, TrainingArguments, make, sample, shifted_again, settings)
    return Row("transformers", f"Trainer, {name}", run, fault, AlignmentCallback, blind=blind or {})


def _seq2seq(name, make, sample=paired, **settings):
    run = functools.partial(train, Seq2SeqTrainer, Seq2SeqTrainingArguments, make, sample, fed_unshifted, settings)
    return Row("transformers", f"Seq2SeqTrainer, {name}", run, frozenset({"LA102"}), AlignmentCallback)


UNTOLD = {"run": "of a masked model the labels that it is given are the only word on its targets"}
ROWS = (
    _trainer("Llama", llama),
    _trainer("Llama, accumulated", llama, gradient_accumulation_steps=2),
    _trainer("Llama, smoothed labels", llama, label_smoothing_factor=0.1),
    _trainer("Llama, bfloat16", llama, bf16=True),
    _trainer("GPT-2", gpt2),
    _trainer("BERT, masked", bert, masked, fault=frozenset({"LA104"}), blind=UNTOLD),
    _seq2seq("T5", t5),
    _seq2seq("BART", bart),
    _seq2seq("Whisper", whisper, heard),
)
