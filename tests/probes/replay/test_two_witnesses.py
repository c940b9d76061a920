"""Two witnesses that share no code say the same of every planted fault, and of right code.

All of it: ``pytest -m "deep or not deep" tests/probes/replay/test_two_witnesses.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from fault_cases import CORRECT, FAULTS, TITLES, V2
from fault_matrix import batch_of, loss_of, missing_model, model_for, narrows, packed_batch, text_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from second_witness import agreement

from probes import check_loss
from probes.fuzzing.fuzz import case_strategy


def own(model, batch):
    return model(**batch).loss


@pytest.mark.parametrize("make", [text_batch, packed_batch], ids=["padded", "packed"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_the_reader_calls_next_token_has_not_been_read(make, size):
    """Where every target is taken from the next row, no row that is trained moves with it."""
    report = check_loss(model_for("llama"), make(size), own, replay="full")
    told = report.streams["text"]
    assert told["offsets"].keys() == {"1"}
    assert report.check("causality").status == "pass", report.in_short()
    assert not any(cut["leaking"] for cut in report.causality["cuts"])


# -- the source of a target: what the gradient moves with ------------------------------------------------------

#: Of each class the case that stands for it, and right code that pairs its rows in ways of its own.
FIRST = [next(case for case in FAULTS if case.fault == fault) for fault in TITLES]
OWN_WAYS = ("correct:loss", "direct", "micro_batches", "codebooks_flattened", "supervised_rows_only")
KINDS = {"llama": [], "higgs_v2": [pytest.mark.higgs_v2]}


def cases():
    """Every case of the fault matrix on its own batch; all but a few are deep."""
    for case in (*FAULTS, *CORRECT, *V2):
        few = any(case is first for first in FIRST) or (case.model == "higgs" and case.loss.endswith(OWN_WAYS))
        few |= case.model == "llama" or (case in V2 and case.loss.endswith(OWN_WAYS))
        if case.model != "chatml":  # its batch is made by a collator that keeps what it was given
            marks = [*KINDS.get(case.model, [pytest.mark.higgs]), *([] if few else [pytest.mark.deep])]
            yield pytest.param(case, id=f"{case}-{case.model}", marks=marks)


@pytest.mark.parametrize("case", list(cases()))
def test_a_row_moves_with_the_token_that_the_reader_names_in_every_case_of_the_matrix(case):
    if reason := missing_model(case):
        pytest.skip(reason)
    narrow = narrows(case)
    told = agreement(model_for(case.model, narrow=narrow), batch_of(case, 2, narrow=narrow), loss_of(case))
    assert told.disagreements == (), f"{case}: {told.disagreements}"
    assert told.rows or told.silent or case.fault, f"{case}: neither witness speaks"


def shifted_by(offset):
    def loss(model, batch):
        labels = F.pad(batch["labels"], (0, 3), value=-100)[:, offset : offset + batch["labels"].shape[1]]
        return F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), labels.flatten(), reduction="sum")

    return loss


def assert_agreement(case, offset):
    """Any mixture of prompts and answers, of any lengths; ids repeat in the long ones."""
    batch = case.text_batch(torch.arange(3, 40))
    told = agreement(model_for("llama"), batch, shifted_by(offset))
    assert told.disagreements == (), f"--case '{case}', labels {offset} ahead: {told.disagreements}"


@given(case_strategy(audio=False), st.integers(0, 3))
@settings(max_examples=12)
def test_a_row_moves_with_the_token_that_the_reader_names_in_fuzzed_cases(case, offset):
    assert_agreement(case, offset)


@pytest.mark.deep
@given(case_strategy(audio=False), st.integers(0, 3))
@settings(max_examples=400)
def test_a_row_moves_with_the_token_that_the_reader_names_in_many_fuzzed_cases(case, offset):
    assert_agreement(case, offset)


def test_a_reader_that_names_another_token_is_told_apart(monkeypatch):
    from dataclasses import replace

    import second_witness

    def one_off(*args):
        seen = honest(*args)
        return replace(seen, actual=tuple(replace(one, source=one.source - 1) for one in seen.actual))

    honest = second_witness.witness
    monkeypatch.setattr(second_witness, "witness", one_off)
    told = agreement(model_for("llama"), text_batch(2), shifted_by(1))
    assert len({one.partition(":")[0] for one in told.disagreements}) > 0.9 * told.rows > 30
