"""LA801: The loss trains logits over a vocabulary that no judged stream explains."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA801",
    "unwatched-head",
    "blind",
    summary="The loss trains logits over a vocabulary that no judged stream explains.",
    headline="A head is trained that was not looked at: {stream}",
    silent="A model with several heads has one loss curve, and the head that is looked at may be right.",
    fix="Declare the stream of this head in two lines (`streams=` or `--streams FILE`), or let "
    "`loss-align discover` write them. Where it is left out on purpose, accept it by name: `--ignore LA801:HEAD`.",
    case="boson-ai/higgs-audio #94: the text loss was right, and every codebook head was trained to copy.",
    note="Value, reward, classification, stop and CTC heads, routers and contrastive losses are a note.",
    bad="""\
model, batch, options = speech()
options["streams"] = {"audio[0]": {"head": "heads.0", "ids": "codes[:, 0]"}}


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    pairs = [(heads[k][:, :-1], codes[:, k, 1:]) for k in range(2)]
    return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)
""",
    good="""\
model, batch, options = speech()
options["streams"] = {"audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]"}}


def loss(model, batch):
    heads, codes = model(batch["codes"]), batch["codes"]
    pairs = [(heads[k][:, :-1], codes[:, k, 1:]) for k in range(2)]
    return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in pairs)
""",
)
