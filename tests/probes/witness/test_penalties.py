"""Cross-entropy beside a penalty on other tokens (unlikelihood, repetition): read where it shows, never accused."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, mean, watched

from probes import check_loss


def likely(scale):
    """A model that believes in the token it has just read, the more the larger the scale."""
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.copy_(10 * scale * model.model.embed_tokens.weight)
    return model


def with_repetitions(count):
    """Batches in which some tokens follow themselves, in the prompt and in the answer."""
    out = batches(count)
    for batch in out:
        batch["input_ids"][:, 2] = batch["input_ids"][:, 1]
        batch["input_ids"][:, 8] = batch["labels"][:, 8] = batch["input_ids"][:, 7]
        batch["labels"][:, 7] = batch["input_ids"][:, 7]
    return out


def on_the_current_token(prob, batch):
    """Of every real row, labelled or not."""
    current = prob[:, :-1].gather(-1, batch["input_ids"][:, :-1, None])[..., 0]
    real = batch["attention_mask"][:, 1:].bool()
    return -(1 - current).clamp(min=1e-5).log()[real].mean()


def on_the_answer(prob, batch):
    """The same of labelled rows alone, where it differs from the target."""
    ids, labels = batch["input_ids"], batch["labels"][:, 1:]
    current = prob[:, :-1].gather(-1, ids[:, :-1, None])[..., 0]
    return -(1 - current).clamp(min=1e-5).log()[(labels != -100) & (labels != ids[:, :-1])].mean()


def on_all_before(prob, batch):
    """Every token of the context but the target, as unlikelihood training has it."""
    ids, labels = batch["input_ids"], batch["labels"]
    before = F.one_hot(ids, VOCAB).cumsum(1).bool()[:, :-1]
    before &= ~F.one_hot(labels[:, 1:].clamp(min=0), VOCAB).bool()
    return -((1 - prob[:, :-1]).clamp(min=1e-5).log() * before).sum(-1)[labels[:, 1:] != -100].mean()


def on_other_tokens(prob, batch):
    """Some that are nowhere in the batch, at every row."""
    drawn = torch.randint(3, VOCAB, batch["input_ids"].shape, generator=torch.Generator().manual_seed(0))
    return -(1 - prob.gather(-1, drawn[..., None])[..., 0]).clamp(min=1e-5).log().mean()


def penalised(penalty, strength, shift=1):
    def loss(model, batch):
        logits = model(**batch).logits
        return mean(logits, batch["labels"], shift) + strength * penalty(logits.softmax(-1), batch)

    return loss


def codes(report):
    return {found.code for found in report.findings}


def unread(scale):
    """What may be blind: where a model is sure of itself, a penalty at its logits outweighs the target of a row."""
    return {"LA802"} if scale > 1 else set()


PENALTIES = [on_the_current_token, on_the_answer, on_all_before, on_other_tokens]
#: Of rows that nobody says are prompt or answer: a penalty there may be all that trains them.
BLIND_BY_RIGHT = dict(zip(PENALTIES, ("LA802", "LA804", "LA804", "LA802"), strict=True))


#: How sure of itself a model is, and what the penalty weighs: the ends of both, and the rest of the grid.
QUICK = [(0.1, 0.5), (3, 5), (10, 0.1)]
DEEP = [pair for pair in itertools.product((0.1, 3, 10), (0.1, 0.5, 1, 5)) if pair not in QUICK]


@pytest.mark.parametrize(
    ("scale", "strength"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.deep) for pair in DEEP)]
)
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.__name__)
def test_a_penalty_beside_the_cross_entropy_is_no_fault(penalty, scale, strength):
    loss = penalised(penalty, strength)
    report, code = watched(lambda: loop(likely(scale), loss, with_repetitions(4)))
    assert (codes(report) <= unread(scale), code) == (True, 0)
    for real in (False, True):
        report = check_loss(likely(scale), with_repetitions(1)[0], loss, real_logits=real)
        assert codes(report) <= (unread(scale) if real else set())
        assert real or report.streams["text"]["offsets"].keys() == {"1"}


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.__name__)
def test_beside_a_penalty_labels_that_the_script_keeps_to_itself_say_what_is_prompt(penalty):
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return mean(logits, batch["labels"]) + 0.5 * penalty(logits.softmax(-1), batch)

    report, code = watched(lambda: loop(likely(0.1), loss, with_repetitions(4)))
    assert (report.verdict, codes(report), code) == ("pass", set(), 0)


@pytest.mark.parametrize(("shift", "found"), [(0, "LA102"), (2, "LA103")])
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.__name__)
def test_a_fault_beside_a_penalty_is_named(penalty, shift, found):
    loss = penalised(penalty, 0.5, shift)
    report, _ = watched(lambda: loop(likely(0.1), loss, with_repetitions(4)))
    assert codes(report) == {found}
    assert codes(check_loss(likely(0.1), with_repetitions(1)[0], loss)) == {found}
