"""LA602: What is to be trained is cut off from the loss, or a frozen weight is trained."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA602",
    "adapter-not-trained",
    "error",
    summary="An adapter, or another parameter that an optimizer holds, is cut off from the loss; or a frozen weight is "
    "trained.",
    headline="What is to be trained is cut off from the loss, or a frozen weight is trained",
    silent="The rest of what is trainable still lowers the loss, and the adapter is saved and loaded "
    "like a trained one.",
    fix="Name target modules that the loss depends on and freeze everything else; `all-linear` also "
    "wraps the heads. Set them with `--lora-target`.",
    checks=("training-step",),
    of_rows=False,
    bad="""\
from peft import LoraConfig, get_peft_model

model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
model.requires_grad_(requires_grad=False)


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
    good="""\
from peft import LoraConfig, get_peft_model

model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
