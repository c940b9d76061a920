"""LA102: Offset 0: a row is trained to repeat the token it has just read."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged, told_offset
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where the one offset of the rows astray is 0."""
    if one.offset == 0:
        message = (
            "logits and labels of {name} agree in length, yet {which} are trained to repeat the token they have "
            "just read (offset 0): the loss falls towards zero and the model learns nothing to say"
        )
        yield told_offset(one, "LA102", message)


RULE = Rule(
    "LA102",
    "copy-objective",
    "error",
    summary="Offset 0: a row is trained to repeat the token it has just read.",
    headline="{trained} [learns|learn] to repeat what [it has|they have] just read",
    silent="Copying is easy, so the loss falls further and faster than it should, and nothing fails "
    "before generation. A training loss under the entropy of the data is the sign.",
    fix="Pair each row with the next label: `logits[:, :-1]` with `labels[:, 1:]`.",
    audio_fix="Pair each row with the next label: `audio_logits[:-1, k]` with `label_audio_ids[k, 1:]`.",
    case="boson-ai/higgs-audio #94: after five LoRA epochs the text loss is 4e-7, the audio loss "
    "0.0028, and the model generates silence; the training script of the day paired audio_logits[t] "
    "with label_audio_ids[t].",
    note="An offset of 0 is legitimate for a masked language model; judge it together with LA401.",
    checks=("pairing",),
    absorbs=("LA201", "LA202", "LA203", "LA204", "LA301", "LA304", "LA401"),
    of_loss=judge,
    bad="""\
def loss(model, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
""",
)
