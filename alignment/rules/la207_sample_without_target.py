"""LA207: By its labels, a sample of the batch has no target while others have."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA207",
    "sample-without-target",
    "warning",
    summary="By its labels, a sample of the batch has no target while others have.",
    headline="A sample of the batch has no target",
    silent="The loss is a mean over the targets of the whole batch: a sample without any only makes the step smaller.",
    fix="Look whether its answer was cut off by the maximal length, or whether the template that the mask searches for "
    "is not the one that the text was written with; drop such samples, or cut the prompt instead.",
    case="huggingface/trl #1385: a response template that is not found masks the whole sample, and only a warning in "
    "the log says so.",
    bad="""\
batch["labels"][1] = -100  # a prompt that fills its sample, cut before the answer


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
