"""LA208: Labels or masks do not follow the roles of the text."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .judged import Labelled
from .rule import Rule


def judge_labels(one: Labelled) -> Iterator[Finding]:
    """Where one and the same prompt is labelled in one sample and masked in another."""
    from ..samples import prompt_findings

    if one.convention in ("position_aligned", "pre_shifted"):
        yield from prompt_findings(one.stream, one.allowed, one.convention)


RULE = Rule(
    "LA208",
    "wrong-role",
    "error",
    summary="Labels or masks do not follow the roles of the text: user, system or tool text is trained, or an answer "
    "is not.",
    headline="Whose words are trained is not what the roles say",
    silent="The loss agrees with the labels, and more labels are only more text: nothing but the roles says that it "
    "is the wrong text.",
    fix="Make the labels from the chat template itself, `apply_chat_template(..., return_assistant_tokens_mask=True)`, "
    "or mask every turn from the end of its header to its end token; say what is meant with `--train-on`.",
    case="NVIDIA-NeMo/Automodel #3352: the mask of the answers begins early, and the header of each is trained.",
    note="LA201 and LA202 compare the loss with the labels instead.",
    lesser="Where nothing was declared (`--train-on assistant`, `last` or `all`): all answers, the last one alone, all "
    "but the prompt and the whole text are a choice, a mixture inside one conversation is none; nor is one and the "
    "same prompt that is labelled in one sample and masked in another.",
    checks=("coverage",),
    absorbs=("LA201", "LA202"),
    of_labels=judge_labels,
    bad="""\
model, batch, options = chat()
batch["labels"] = batch["input_ids"].clone()  # the user's words too


def loss(model, batch):
    return model(**batch).loss
""",
    good="""\
model, batch, options = chat()


def loss(model, batch):
    return model(**batch).loss
""",
)
