"""LA805: Causality applies and could not be judged."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA805",
    "not-replayed",
    "blind",
    summary="Causality applies and could not be judged.",
    headline="Whether a logit sees its own target was not judged",
    silent="An offset is right only where the row could not see its target.",
    fix="Run `loss-align preflight` on the same model and loss; to do without, say `--replay none`, or `--ignore "
    "LA805:all` where a run is watched.",
    note="A skip that the caller asked for is accepted and named.",
    bad="""\
known = batch["input_ids"].clone()


def loss(model, batch):
    if not torch.equal(batch["input_ids"], known):
        raise KeyError("a sample that the table of weights does not hold")
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
