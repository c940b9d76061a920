"""The decision, row by row of its table, and the pairing that follows from it."""

import pytest
import torch

from alignment import (
    IGNORE_INDEX,
    AlignmentError,
    Convention,
    InputError,
    Pairing,
    choose,
    pair,
)

__ = IGNORE_INDEX
IDS = torch.tensor([[10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25]])
ALIGNED = torch.tensor([[__, __, 12, 13, 14, 15], [__, __, __, 23, 24, 25]])
SHIFTED = torch.tensor([[__, 12, 13, 14, 15, __], [__, __, 23, 24, 25, __]])
LOGITS = torch.zeros(2, 6, 30)


def decide(labels, ids=IDS, **kwargs):
    return choose(LOGITS, labels, ids, **kwargs)


# -- the table, one test a row ------------------------------------------------------------------------


def test_labels_at_the_next_token_are_paired_directly():
    decision = decide(SHIFTED)
    assert (decision.pairing, decision.path, decision.verified) == (Pairing.DIRECT, "expanded", True)
    assert decision.convention is Convention.PRE_SHIFTED
    assert decision.warnings == ()
    assert torch.equal(pair(decision.labels, decision.pairing), SHIFTED)


def test_labels_at_their_own_token_are_shifted_and_the_copy_is_named():
    decision = decide(ALIGNED)
    assert (decision.pairing, decision.path, decision.verified) == (Pairing.SHIFTED, "expanded", True)
    assert decision.convention is Convention.POSITION_ALIGNED
    assert decision.warnings == ()
    assert torch.equal(pair(decision.labels, decision.pairing), SHIFTED)
    assert decision.reason == (
        "7 of 7 labels are the token at their row, 0 of 5 the token after it: "
        "pairing direct would train each logit to repeat the token it has just read"
    )


def test_without_ids_expanded_labels_are_paired_directly_unverified():
    decision = decide(ALIGNED, ids=None)
    assert (decision.pairing, decision.verified, decision.evidence) == (Pairing.DIRECT, False, None)
    assert decision.convention is Convention.AMBIGUOUS
    assert decision.reason == (
        "expanded_labels paired directly as the seed document declares, unverified: "
        "pass the input ids (expanded_input_ids) to have it proven"
    )
    assert decision.warnings == (decision.reason,)


def test_pre_shifted_labels_may_be_one_shorter_than_the_logits():
    decision = decide(SHIFTED[:, :-1])
    assert (decision.pairing, decision.verified) == (Pairing.DIRECT, True)
    assert torch.equal(decision.labels, SHIFTED)


def test_aligned_labels_may_not_be_one_shorter():
    with pytest.raises(AlignmentError, match="logits and labels of text differ in length: 6 vs 5") as error:
        decide(ALIGNED[:, :-1])
    assert error.value.code == "LA101"


def test_labels_that_fit_neither_are_no_decision_and_show_the_rows():
    labels = ALIGNED.clone()
    labels[0, 3] = labels[1, 4] = 99
    with pytest.raises(AlignmentError) as error:
        decide(labels, name="speech")
    assert (error.value.code, error.value.stream) == ("LA105", "speech")
    assert str(error.value) == (
        "labels of speech fit neither convention: 5 of 7 labels are the token at their row, "
        "0 of 5 the token after it. First rows that disagree: "
        "sample 0 row 3: label 99 at token 13, before token 14; "
        "sample 1 row 4: label 99 at token 24, before token 25"
    )


def test_samples_that_contradict_each_other_are_no_decision():
    with pytest.raises(AlignmentError, match=r"First rows that disagree: sample 1 row 2: label 23") as error:
        decide(torch.stack([ALIGNED[0], SHIFTED[1]]))
    assert error.value.code == "LA105"


@pytest.mark.parametrize(("offset", "code"), [(2, "LA103"), (-1, "LA104"), (3, "LA104")])
def test_labels_at_another_single_offset_say_which(offset, code):
    labels = torch.full_like(IDS, __)
    labels[:, 1:3] = IDS[:, 1 + offset : 3 + offset]
    with pytest.raises(AlignmentError, match=rf"All of them are the token at offset \{offset:+d}\.") as error:
        decide(labels)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("logits", "labels", "cause"),
    [
        (
            255,
            256,
            (
                "The logits were cut by one and the labels were not: cut both (logits[:, :-1] with labels[:, 1:]) "
                "or neither, as the labels' convention demands"
            ),
        ),
        (
            256,
            255,
            "The labels were cut by one and the logits were not: cut both (logits[:, :-1] with labels[:, 1:])",
        ),
        (
            256,
            120,
            (
                "Labels and logits come from different sequences: audio placeholders were expanded on one side only; "
                "use the model's expanded_labels, or expand the raw labels with alignment.expand"
            ),
        ),
    ],
    ids=["logits-cut", "labels-cut", "not-expanded"],
)
def test_any_other_length_is_an_error_with_both_lengths_its_cause_and_its_cure(logits, labels, cause):
    with pytest.raises(AlignmentError) as error:
        choose(torch.zeros(1, logits, 2), torch.ones(1, labels, dtype=torch.long), name="speech")
    assert (error.value.code, error.value.stream) == ("LA101", "speech")
    assert str(error.value) == f"logits and labels of speech differ in length: {logits} vs {labels}. {cause}"


def test_absent_labels_fall_back_to_raw_ones_shifted():
    decision = decide(None, fallback=ALIGNED)
    assert (decision.pairing, decision.path, decision.verified) == (Pairing.SHIFTED, "fallback", True)


def test_the_fallback_without_ids_is_shifted_unverified():
    decision = decide(None, ids=None, fallback=ALIGNED)
    assert (decision.pairing, decision.path, decision.verified) == (Pairing.SHIFTED, "fallback", False)
    assert decision.warnings[0].startswith("raw labels shifted as is usual, unverified")


def test_shorter_raw_labels_are_expanded_on_demand_only():
    calls = []

    def expanded():
        calls.append(1)
        return ALIGNED

    assert decide(ALIGNED, fallback=expanded).path == "expanded"
    assert not calls
    assert decide(None, fallback=expanded).pairing is Pairing.SHIFTED
    assert calls == [1]


@pytest.mark.parametrize("length", [6, 3], ids=["as-long", "shorter"])
def test_without_a_label_nothing_is_decided(length):
    decision = decide(torch.full((2, length), __))
    assert (decision.pairing, decision.path, decision.verified) == (None, "none", False)
    assert decision.convention is Convention.NONE
    assert decision.warnings == ("no labelled position: nothing to pair",)
    assert bool((pair(decision.labels, decision.pairing) == __).all())


# -- too little evidence ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        ([[7, 8, 9]], [[__, __, 9]]),  # the end token only: nothing follows it
        ([[7, 7, 7]], [[__, 7, 7]]),
        ([[7, 7, 8]], [[7, __, __]]),
    ],
    ids=["end-token-only", "repeated-tokens", "one-label"],
)
def test_ids_that_fit_both_are_ambiguous_and_taken_on_trust(ids, labels):
    decision = choose(3, torch.tensor(labels), torch.tensor(ids))
    assert (decision.convention, decision.pairing) == (Convention.AMBIGUOUS, Pairing.SHIFTED)
    assert not decision.verified
    assert "the ids fit both conventions" in decision.warnings[0]


def test_logits_of_one_sample_may_come_without_their_batch():
    assert choose(LOGITS[0], ALIGNED[:1], IDS[:1]).pairing is Pairing.SHIFTED


def test_one_more_label_settles_it():
    assert choose(3, torch.tensor([[__, 8, 9]]), torch.tensor([[7, 8, 9]])).verified


def test_data_cut_beforehand_never_counts_its_last_column_against_a_hypothesis():
    inputs, labels = IDS[:, :-1], IDS[:, 1:]
    decision = choose(5, labels, inputs)
    assert (decision.pairing, decision.verified) == (Pairing.DIRECT, True)


def test_a_last_column_alone_decides_by_exclusion_unverified():
    decision = choose(3, torch.tensor([[__, __, 9]]), torch.tensor([[7, 8, 1]]))
    assert (decision.pairing, decision.convention) == (Pairing.DIRECT, Convention.PRE_SHIFTED)
    assert not decision.verified
    assert "paired by exclusion" in decision.warnings[0]


def test_evidence_is_pooled_over_the_batch():
    ids = torch.tensor([[7, 7, 7], [1, 2, 3]])
    labels = torch.tensor([[__, 7, 7], [__, 2, 3]])
    assert not choose(3, labels[:1], ids[:1]).verified
    assert choose(3, labels, ids).pairing is Pairing.SHIFTED
    assert choose(3, labels, ids).verified


# -- named policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "policy", "trains"),
    [
        (ALIGNED, "direct", "repeat the token it has just read"),
        (SHIFTED, "shifted", "skip a token (double shift)"),
    ],
)
def test_a_named_policy_is_obeyed_and_contradicted(labels, policy, trains):
    right = decide(labels)
    decision = decide(labels, policy=policy)
    assert (str(decision.pairing), decision.contradicted, decision.verified) == (policy, True, False)
    (warning,) = decision.warnings
    assert warning == (
        f"policy {policy} was asked for, but the labels are {right.convention}: "
        f"each logit is trained to {trains}; use --policy evidence or {right.pairing}"
    )
    assert not right.contradicted


@pytest.mark.parametrize(("labels", "policy"), [(ALIGNED, "shifted"), (SHIFTED, "direct")])
def test_a_named_policy_that_fits_is_verified_in_silence(labels, policy):
    decision = decide(labels, policy=policy)
    assert (str(decision.pairing), decision.verified, decision.contradicted) == (policy, True, False)
    assert decision.warnings == ()


@pytest.mark.parametrize("policy", ["direct", "shifted"])
def test_a_named_policy_decides_where_the_ids_cannot(policy):
    ids, labels = torch.tensor([[7, 7, 7]]), torch.tensor([[__, 7, 7]])
    assert str(choose(3, labels, ids, policy=policy).pairing) == policy
    assert str(choose(3, labels, policy=policy).pairing) == policy


@pytest.mark.parametrize("policy", ["direct", "shifted"])
def test_a_named_policy_is_obeyed_even_where_the_ids_fit_neither(policy):
    labels = torch.where(__ == ALIGNED, __, ALIGNED + 50)
    with pytest.raises(AlignmentError):
        decide(labels)
    decision = decide(labels, policy=policy)
    assert (str(decision.pairing), decision.verified, decision.contradicted) == (policy, False, True)
    assert f"policy {policy} was asked for, but labels of text fit neither" in decision.warnings[0]
    assert (decision.path, decision.convention) == ("expanded", Convention.INCONSISTENT)
    assert torch.equal(decision.labels, labels)
    assert decision.evidence.labelled == 7


def test_the_decision_reads_as_plain_json_values():
    assert decide(ALIGNED).as_dict() == {
        "pairing": "shifted",
        "path": "expanded",
        "convention": "position_aligned",
        "verified": True,
        "warnings": [],
    }
    assert decide(torch.full_like(IDS, __)).as_dict()["pairing"] is None


def test_no_labels_at_all_is_bad_input():
    with pytest.raises(InputError, match="no labels for text: pass expanded_labels, or the raw labels"):
        decide(None)
