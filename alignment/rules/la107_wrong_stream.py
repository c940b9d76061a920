"""LA107: Audio rows are trained on text ids, or text rows on audio codes."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Judged
from .rule import Rule


def judge(one: Judged) -> Iterator[Finding]:
    """Where any row is."""
    rows = one.verdicts.foreign
    if "foreign" in one.verdicts.some:
        of = "tokens of another modality: text ids at an audio head, or the reverse"
        message = f"{int(rows.sum())} of {one.trained} trained rows of {one.name} are trained on {of}"
        yield one.told("LA107", rows, message)


RULE = Rule(
    "LA107",
    "wrong-stream",
    "error",
    summary="Audio rows are trained on text ids, or text rows on audio codes.",
    headline="{trained} [learns|learn] tokens of the other modality",
    silent="Small ids are valid in both vocabularies, and one total loss hides which head it came from.",
    fix="Give every head its own labels, and pass position-aligned labels instead of `shift_labels` to "
    "a model that hands its keywords to every head: `labels=labels`.",
    case="transformers 5.23.0, HiggsAudioV2ForConditionalGeneration: `shift_labels` given as a keyword "
    "reaches the loss of every codebook, so the audio heads are trained on text ids.",
    checks=("pairing",),
    absorbs=(
        "LA106",
        "LA102",
        "LA103",
        "LA104",
        "LA105",
        "LA201",
        "LA202",
        "LA203",
        "LA204",
        "LA301",
        "LA304",
        "LA401",
    ),
    of_loss=judge,
    bad="""\
model, batch, options = speech()
batch["text"] = torch.randperm(64)[:40].reshape(2, 20)
model.text = torch.nn.Sequential(torch.nn.Embedding(64, 16), torch.nn.Linear(16, 64))
options["streams"]["text"] = {"head": "text", "ids": "text", "labels": "text"}


def loss(model, batch):
    heads, words = model(batch["codes"]), model.text(batch["text"])
    labels = [batch["text"], batch["text"]]  # one set of labels reaches every head
    pairs = [(words, batch["text"]), *zip(heads, labels)]
    return sum(F.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten()) for x, y in pairs)
""",
    good="""\
model, batch, options = speech()
batch["text"] = torch.randperm(64)[:40].reshape(2, 20)
model.text = torch.nn.Sequential(torch.nn.Embedding(64, 16), torch.nn.Linear(16, 64))
options["streams"]["text"] = {"head": "text", "ids": "text", "labels": "text"}


def loss(model, batch):
    heads, words = model(batch["codes"]), model.text(batch["text"])
    labels = [batch["codes"][:, 0], batch["codes"][:, 1]]
    pairs = [(words, batch["text"]), *zip(heads, labels)]
    return sum(F.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten()) for x, y in pairs)
""",
)
