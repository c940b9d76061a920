"""LA106: The rows of a codebook are trained on the tokens of another codebook."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import RIGHT_AUDIO, Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where any row is."""
    rows = one.verdicts.codebook
    if "codebook" in one.verdicts.some:
        of = "another codebook's tokens"
        message = f"{int(rows.sum())} of {one.trained} trained rows of {one.name} are trained on {of}"
        yield one.told("LA106", rows, message)


RULE = Rule(
    "LA106",
    "wrong-codebook",
    "error",
    summary="The rows of a codebook are trained on the tokens of another codebook.",
    headline="{trained} [learns|learn] the tokens of another codebook",
    silent="All codebooks have the same number of codes, so a swapped axis gives valid shapes and valid targets.",
    fix="Put codebook and time in the same order on both sides, and shift along time only: "
    "`audio_logits[:-1, k]` with `label_audio_ids[k, 1:]`.",
    case="QwenLM/Qwen3-TTS #371 (3): the shift of the loss runs along the codebook axis instead of "
    "time, so a head is trained on the codes of a later codebook.",
    checks=("pairing",),
    absorbs_beside=("LA205",),
    absorbs=("LA102", "LA103", "LA104", "LA105", "LA201", "LA202", "LA203", "LA204", "LA301", "LA304", "LA401"),
    of_loss=judge,
    bad="""\
model, batch, options = speech()


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    pairs = [(heads[k][:, :-1], codes[:, 1 - k, 1:]) for k in range(2)]
    return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)
""",
    good=RIGHT_AUDIO,
)
