"""LA604: Teacher-forced logits differ from those of step-by-step decoding."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA604",
    "decode-mismatch",
    "error",
    summary="Teacher-forced logits differ from those of step-by-step decoding.",
    headline="Decoding step by step gives other logits than training",
    silent="Training and evaluation both force the inputs; only generation takes the other path.",
    fix="Give each decoding step the cache, positions and masks that teacher forcing had; for the "
    "released Higgs model concatenate the audio mask at every step: `cache_audio_discrete_codes_mask`.",
    case="boson_multimodal 0.1.1 (measured): without `cache_audio_discrete_codes_mask` the decoded "
    "logits are off by 0.22; with it text and audio agree with teacher forcing to 3e-7.",
    checks=("decode",),
    bad="""\
class Model(LlamaForCausalLM):
    def forward(self, input_ids, position_ids=None, **others):
        places = torch.arange(input_ids.shape[1])[None]  # from 0 on, also behind a cache
        return super().forward(input_ids, position_ids=places, **others)


model, check = llama(Model), preflight


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
    good="""\
class Model(LlamaForCausalLM):
    def forward(self, input_ids, position_ids=None, **others):
        return super().forward(input_ids, position_ids=position_ids, **others)


model, check = llama(Model), preflight


def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
""",
)
