"""LA402: The side or the amount of padding changes the logits of real tokens."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA402",
    "padding-matters",
    "warning",
    summary="The side or the amount of padding changes the logits of real tokens.",
    headline="Padding changes the logits of real tokens",
    silent="Padding changes with the batch (the released Higgs model pads a lone sample left and a "
    "batch right), so a test with one sample says nothing about training.",
    fix="Pass an attention mask that covers the padding, and position ids that count real tokens only: "
    "`position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.",
    bad="""\
class Model(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, **others):
        return super().forward(input_ids, **others)  # padding is read like any other token


model, check = llama(Model), preflight


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
    good="""\
class Model(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, **others):
        return super().forward(input_ids, attention_mask=attention_mask, **others)


model, check = llama(Model), preflight


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
