"""Pairing: the target of every logit that follows from a decision, on any batch."""

import pytest
import torch
from hypothesis import assume, given
from planted import plain_stream
from strategies import text_batches

from alignment import IGNORE_INDEX, AlignmentError, Pairing, choose, pair, text_stream

__ = IGNORE_INDEX


def test_pair_takes_labels_only_and_direct_copies_nothing():
    labels = torch.tensor([[__, 2, 3, 4]])
    assert pair(labels, "direct") is labels
    assert pair(labels, Pairing.SHIFTED).shape == labels.shape
    assert labels.tolist() == [[__, 2, 3, 4]]


def test_pair_never_crosses_a_border():
    labels = torch.tensor([[1, 2, 3, 4]])
    assert pair(labels, "shifted").tolist() == [[2, 3, 4, __]]
    documents = text_stream(labels, 9, documents=torch.tensor([[0, 0, 1, 1]]))
    assert pair(labels, "shifted", documents).tolist() == [[2, __, 4, __]]
    padding = text_stream(labels, 9, mask=torch.tensor([[1, 1, 1, 0]]))
    assert pair(labels, "shifted", padding).tolist() == [[2, 3, __, __]]


def test_per_segment_borders_free_the_last_label_of_each_segment():
    ids = torch.tensor([[5, 6, 8, 9]])
    labels = torch.tensor([[6, 7, 9, 1]])  # pre-shifted twice over, each segment cut beforehand
    two = plain_stream(ids[0], segment=[0, 0, 1, 1])
    assert choose(4, labels, stream=two).pairing is Pairing.DIRECT
    with pytest.raises(AlignmentError, match="row 1: label 7"):
        choose(4, labels, ids)


@given(text_batches(unique=True))
def test_both_conventions_lead_to_the_same_targets(batch):
    stream, length = batch.stream, batch.ids.shape[1]
    assume(bool((batch.pre_shifted != __).any()))
    for labels, pairing in ((batch.labels, Pairing.SHIFTED), (batch.pre_shifted, Pairing.DIRECT)):
        decision = choose(length, labels, stream=stream)
        counted = (labels.reshape(-1) != __) & stream.follows()
        assert (decision.pairing, decision.verified) == (pairing, bool(counted.any()))
        assert torch.equal(pair(decision.labels, decision.pairing, stream).reshape(-1), batch.targets)


@given(text_batches(unique=False))
def test_repeated_tokens_never_lead_to_a_wrong_verified_pairing(batch):
    for labels, right in ((batch.labels, Pairing.SHIFTED), (batch.pre_shifted, Pairing.DIRECT)):
        decision = choose(batch.ids.shape[1], labels, stream=batch.stream)
        assert decision.pairing is right or not decision.verified


@given(text_batches(unique=True, packed=False))
def test_labels_against_ids_moved_by_one_more_are_refused(batch):
    twice = torch.full_like(batch.ids, __)
    twice[:, :-1] = pair(batch.pre_shifted, "shifted", batch.stream)[:, :-1]
    assume(bool((twice != __).any()))
    with pytest.raises(AlignmentError) as error:
        choose(batch.ids.shape[1], twice, stream=batch.stream)
    assert error.value.code == "LA103"
    assert "offset +2" in str(error.value)
