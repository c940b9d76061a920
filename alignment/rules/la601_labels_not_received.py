"""LA601: Labels passed to the outermost model do not reach the innermost forward."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA601",
    "labels-not-received",
    "error",
    summary="Labels passed to the outermost model do not reach the innermost forward.",
    headline="The labels do not reach the model",
    silent="The logits are the same without labels. `expanded_labels` is None then, and the trainer "
    "takes its fallback path without a word.",
    fix="Call the model under the wrapper, or wrap it without a task type (task_type None or "
    "FEATURE_EXTRACTION in PEFT): `peft_model.base_model(**batch)`.",
    note="Where labels are withheld on purpose, `--labels none` declares it and the check is skipped.",
    checks=("labels-received",),
    of_rows=False,
    bad="""\
class Wrapper(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, labels, **inputs):
        return self.model(**inputs)


model = Wrapper(model)


def loss(model, batch):
    out = model(**batch)
    return out.logits.sum() * 0 if out.loss is None else out.loss
""",
    good="""\
class Wrapper(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, labels, **inputs):
        return self.model(labels=labels, **inputs)


model = Wrapper(model)


def loss(model, batch):
    out = model(**batch)
    return out.logits.sum() * 0 if out.loss is None else out.loss
""",
)
