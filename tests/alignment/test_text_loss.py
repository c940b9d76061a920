"""The loss of a text stream whose model leaves its ids as they are: each logit with the token after it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from alignment import AlignmentError, Pairing, text_stream
from alignment.loss import text_loss

__ = -100
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
STREAM = text_stream(IDS, 13)
LOGITS = torch.randn(2, 4, 13, generator=torch.Generator().manual_seed(3))
ALIGNED = IDS.clone()
ALIGNED[0, :2] = __
AHEAD = torch.tensor([[__, 7, 8, __], [10, 11, 12, __]])
EXPECTED = F.cross_entropy(LOGITS.flatten(0, 1), AHEAD.flatten())


@pytest.mark.parametrize(("labels", "pairing"), [(ALIGNED, Pairing.SHIFTED), (AHEAD, Pairing.DIRECT)])
def test_labels_of_either_convention_give_one_value(labels, pairing):
    value, decision = text_loss(LOGITS, labels.reshape(-1), STREAM)
    assert torch.allclose(value, EXPECTED)
    assert (decision.pairing, decision.path, decision.verified) == (pairing, "fallback", True)


def test_a_named_policy_is_obeyed():
    value, decision = text_loss(LOGITS, AHEAD.reshape(-1), STREAM, "shifted")
    twice = torch.full_like(AHEAD, __)
    twice[:, :-1] = AHEAD[:, 1:]
    assert torch.allclose(value, F.cross_entropy(LOGITS.flatten(0, 1), twice.flatten()))
    assert decision.contradicted


def test_the_ends_of_documents_pair_with_nothing():
    packed = text_stream(IDS, 13, documents=torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]))
    inside = AHEAD.clone()
    inside[0, 1] = __
    assert torch.allclose(
        text_loss(LOGITS, ALIGNED.reshape(-1), packed)[0], F.cross_entropy(LOGITS.flatten(0, 1), inside.flatten())
    )


def test_labels_that_fit_nothing_are_refused_by_the_name_of_the_stream():
    with pytest.raises(AlignmentError, match="labels of decoder fit neither convention") as refused:
        text_loss(LOGITS, IDS.flip(1).reshape(-1), replace(STREAM, name="decoder"))
    assert refused.value.stream == "decoder"
