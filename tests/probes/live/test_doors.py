"""Every door says the same of the same model, batch and loss; what one cannot see stands in docs/doors.md."""

import re
from pathlib import Path

import fault_matrix
import pytest
import torch
import torch.nn.functional as F
from doors import DOORS
from fault_cases import CORRECT, FAULTS
from live_runs import VOCAB, batches, llama, mean
from narrow import narrowed

from probes import barcoded_batch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

PAGE = Path(__file__).parents[3] / "docs" / "doors.md"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
#: What a door cannot see: (door, codes, where), a row of the page's table each.
UNSEEN = [
    (door, frozenset(codes.split(", ")), where) for door, codes, where in ROW.findall(PAGE.read_text(encoding="utf-8"))
]
KEEPS_ITS_LABELS = {
    "correct_calls:pops_its_labels",
    "correct_calls:without_labels",
    "correct_conventions:direct_on_text",
    "correct_reductions:token_mean_of_the_step",
    "higgs_v2:token_mean_of_the_step",
}
#: Where a row of the table holds: by the loss, its options, and what was said.
WHERE = {
    "everywhere": lambda loss, options, said: True,
    "the loss raises": lambda loss, options, said: said.raised,
    "the model is never called": lambda loss, options, said: loss == "swallowed_error:before_the_model",
    "the loop keeps its labels": lambda loss, options, said: loss in KEEPS_ITS_LABELS,
    "the first step calls forward itself": lambda loss, options, said: loss == "correct_calls:forward_method",
    "a fused loss of codebooks": lambda loss, options, said: loss.startswith(("fused_audio", "correct_fused")),
    "the loss is a Python number": lambda loss, options, said: loss in {"swallowed_error:number", "graph_cut:item"},
    "a reduction of one micro-batch": lambda loss, options, said: (
        "reduction" in options and options.get("grad_accum", 1) == 1
    ),
    "a count of the whole step": lambda loss, options, said: (
        loss in {"text_count_for_audio:loss", "higgs_v2:as_trainer_calls"} and options.get("grad_accum", 1) > 1
    ),
}
OTHERS = [name for name in DOORS if name != "check_loss"]


def assert_same(model, batch, loss, options=None, name=""):
    """Every door says what check_loss says; what that is."""
    options = options or {}
    first = DOORS["check_loss"](model, batch, loss, options)
    for door in OTHERS:
        said = DOORS[door](model, batch, loss, options)
        holds = {where: codes for one, codes, where in UNSEEN if one == door and WHERE[where](name, options, said)}
        unseen = frozenset().union(*holds.values())
        mine, due = ({one for one in of.codes if one.partition(" ")[0] not in unseen} for of in (said, first))
        assert mine == due, door
        assert said.refused == first.refused or holds.keys() - {"everywhere"}, door
    return first.codes


# -- losses of a text model -----------------------------------------------------------------------------


def logits_of(model, batch):
    return model(**batch).logits


def smoothed(model, batch):
    logits, labels = logits_of(model, batch)[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)


def prompt_trained(model, batch):
    return mean(logits_of(model, batch), batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))


def half_trained(model, batch):
    return mean(logits_of(model, batch), batch["labels"].masked_fill(torch.arange(20) < 8, -100))


def flat(model, batch):
    return F.cross_entropy(logits_of(model, batch).flatten(0, 1)[:-1], batch["labels"].flatten()[1:])


def by_sample(model, batch):
    losses = F.cross_entropy(
        logits_of(model, batch)[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
    )
    return (losses.sum(1) / (batch["labels"][:, 1:] != -100).sum(1)).mean()


LOSSES = {
    "the model's own": (lambda model, batch: model(**batch).loss, set()),
    "outside": (lambda model, batch: mean(logits_of(model, batch), batch["labels"]), set()),
    "smoothed": (smoothed, set()),
    "a copy": (lambda model, batch: mean(logits_of(model, batch), batch["labels"], 0), {"LA102 text error"}),
    "shifted twice": (lambda model, batch: mean(logits_of(model, batch), batch["labels"], 2), {"LA103 text error"}),
    "three ahead": (lambda model, batch: mean(logits_of(model, batch), batch["labels"], 3), {"LA104 text error"}),
    "the prompt too": (prompt_trained, {"LA202 text error"}),
    "half of it": (half_trained, {"LA201 text error"}),
    "across samples": (flat, None),
    "a mean of means": (by_sample, {"LA301 text warning"}),
    "turned round": (lambda model, batch: -mean(logits_of(model, batch), batch["labels"]), {"LA304 text warning"}),
    "no gradient": (lambda model, batch: 0.0 * logits_of(model, batch).sum(), {"LA206 all error"}),
}


@pytest.mark.parametrize(("loss", "due"), LOSSES.values(), ids=LOSSES)
def test_a_loss_of_a_text_model(loss, due):
    said = assert_same(llama(), batches(1, seed=3)[0], loss)
    assert due is None or said == due


def test_a_masked_language_model():
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    batch = batches(1)[0]
    masked = (torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.4) & (batch["attention_mask"] == 1)
    batch["labels"] = batch["input_ids"].masked_fill(~masked, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(masked, 1)
    model = BertForMaskedLM(BertConfig(vocab_size=VOCAB, **sizes)).train()
    assert assert_same(model, batch, lambda model, batch: model(**batch).loss) == set()


def test_labels_that_are_shifted_beforehand():
    batch = batches(1)[0]
    batch["labels"] = torch.cat([batch["labels"][:, 1:], torch.full((2, 1), -100)], 1)
    assert assert_same(llama(), batch, lambda model, batch: mean(logits_of(model, batch), batch["labels"], 0)) == set()
    assert assert_same(llama(), batch, lambda model, batch: model(**batch).loss) == {"LA103 text error"}


def test_a_batch_of_another_checkpoint_is_refused_in_one_sentence():
    batch, model = batches(1)[0], llama()
    batch["input_ids"][0, 3] = VOCAB + 1
    model.model.embed_tokens.register_forward_pre_hook(lambda module, args: (args[0].clamp(max=VOCAB - 1),))
    first = DOORS["check_loss"](model, batch, smoothed, {})
    assert "the ids below" in first.refused
    for door in OTHERS:
        assert DOORS[door](model, batch, smoothed, {}).refused == first.refused, door


@pytest.mark.higgs
def test_a_batch_without_the_delay_of_its_checkpoint_is_refused_in_one_sentence():
    batch = narrowed(barcoded_batch(2, length=fault_matrix.LENGTH, use_delay_pattern=False))
    model, loss = fault_matrix.model_for("higgs", narrow=True), fault_matrix.load("correct:loss")
    said = [door(model, batch, loss, {}) for door in DOORS.values()]
    assert "are not delayed, the configuration says use_delay_pattern=True" in said[0].refused
    assert {one.refused for one in said} == {said[0].refused}
    assert said[-1].verdict == "error"


# -- the fault matrix -----------------------------------------------------------------------------------

#: Transformers' own Higgs as its trainers call it: losses of the released one (``V2``) hand it no labels.
CASES = [case for case in (*FAULTS, *CORRECT) if not fault_matrix.missing_model(case)]


def assert_same_of_case(case):
    narrow = fault_matrix.narrows(case)
    model, batch = fault_matrix.model_for(case.model, narrow=narrow), fault_matrix.batch_of(case, 2, narrow=narrow)
    assert_same(model, batch, fault_matrix.loss_of(case), case.options, case.loss)


@pytest.mark.parametrize("case", [case for case in CASES if case.model == "llama"], ids=str)
def test_the_fault_matrix_of_text_models(case):
    assert_same_of_case(case)


@pytest.mark.deep
@pytest.mark.parametrize("case", [case for case in CASES if case.model not in {"llama", "chatml"}], ids=str)
def test_the_fault_matrix_of_speech_models(case):
    assert_same_of_case(case)


def test_the_table_names_doors_codes_and_places_that_exist():
    from alignment.rules import RULES

    assert {where for *_, where in UNSEEN} == set(WHERE)
    assert {door for door, *_ in UNSEEN} <= set(OTHERS)
    assert frozenset().union(*(codes for _, codes, _ in UNSEEN)) <= set(RULES)
