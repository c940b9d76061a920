"""LA803: Trained rows belong to no position of the batch."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA803",
    "unplaced-rows",
    "blind",
    summary="Trained rows belong to no position of the batch.",
    headline="Rows are trained that belong to no position of the batch",
    silent="Rows that the model puts in by itself have no input token to compare their target with.",
    fix="Name the ids that the head's rows stand for with `--streams FILE`, or accept it by name: "
    "`--ignore LA803:text`.",
    note="Virtual tokens that PEFT puts in front are none.",
    bad="""\
learnt = torch.randn(2, 3, 32)


def loss(model, batch):
    inputs = torch.cat([learnt, model.get_input_embeddings()(batch["input_ids"])], 1)
    logits, labels = model(inputs_embeds=inputs).logits, batch["labels"]
    prompt = F.cross_entropy(logits[:, 1], batch["input_ids"][:, 0])  # a row of the learnt prompt
    return F.cross_entropy(logits[:, 3:-1].flatten(0, 1), labels[:, 1:].flatten()) + prompt
""",
    good="""\
learnt = torch.randn(2, 3, 32)


def loss(model, batch):
    inputs = torch.cat([learnt, model.get_input_embeddings()(batch["input_ids"])], 1)
    logits, labels = model(inputs_embeds=inputs).logits, batch["labels"]
    return F.cross_entropy(logits[:, 3:-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
