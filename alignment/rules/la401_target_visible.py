"""LA401: The logits of a row depend on its own target, on later inputs, on another sample or document."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA401",
    "target-visible",
    "error",
    summary="The logits of a row depend on its own target, on later inputs, on another sample or document.",
    headline="{trained} [sees|see] what must be predicted",
    silent="The loss falls, and evaluation with teacher forcing sees the same inputs and agrees. Only "
    "generation, where those inputs do not exist yet, is wrong.",
    fix="Predict each target from a hidden state that has not consumed it, under a causal mask: "
    "`hidden[:, :-1]` with `labels[:, 1:]`.",
    case="QwenLM/Qwen3-TTS #371 (2): the sub-talker gets the hidden state at the position that has "
    "already consumed the frame it is to predict.",
    checks=("causality",),
    bad="""\
def loss(model, batch):
    everything = torch.zeros(len(batch["labels"]), 1, *2 * batch["labels"].shape[1:])  # no causal mask
    logits = model(batch["input_ids"], attention_mask=everything).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
""",
)
