"""LA302: The weights do not add up to the declared reduction, or change with how the batch is split."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA302",
    "wrong-denominator",
    "error",
    summary="The weights do not add up to the declared reduction, or change with how the batch is split.",
    headline="The loss of {stream} is divided by the wrong number",
    silent="A wrong denominator only scales the gradient, which looks like another learning rate.",
    fix="Divide the summed loss of each stream by that stream's number of targets after the shift, "
    "counted over all accumulated micro-batches. Then check it: `loss-align preflight --grad-accum N "
    "--reduction token-mean`.",
    case="huggingface/transformers #34191: a mean of means over micro-batches of unequal token counts "
    "under gradient accumulation; #46204: the denominator counted labels before the shift.",
    note="Only where a reduction or accumulation is declared (`grad_accum=`, `reduction=`) or observed "
    "(`loss-align run`, the Trainer callback); never on a single undeclared loss call.",
    bad="""\
options = {"grad_accum": 2}


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
    good="""\
options = {"grad_accum": 2}


def loss(model, batch, num_items):
    logits, labels = model(**batch).logits, batch["labels"]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return losses / num_items["text"]
""",
)
