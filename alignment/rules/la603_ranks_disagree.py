"""LA603: Distributed ranks differ in decision, codes or normaliser, or in their weights after a step."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA603",
    "ranks-disagree",
    "error",
    summary="Distributed ranks differ in decision, codes or normaliser, or in their weights after a step.",
    headline="The ranks do not train the same",
    silent="Usually one rank logs, and its own numbers agree with each other; DDP takes the mean of all "
    "gradients, by whatever rule each was made. Unequal targets alone are no finding, the check `ranks` states "
    "them: with 34 and 36 of them on two ranks, a target weighs 1.029 or 0.972 of its global weight.",
    fix="Run the same loss, data code, options and library versions on every rank. To divide alike, divide by the "
    "targets of all ranks (`torch.distributed.all_reduce`) and multiply by the world size, which DDP divides by.",
    checks=("ranks",),
    of_rows=False,
    bad="""\
check = two_ranks


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    reduction = "mean" if os.environ["RANK"] == "0" else "sum"  # two versions of the code
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction=reduction)
""",
    good="""\
check = two_ranks


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
