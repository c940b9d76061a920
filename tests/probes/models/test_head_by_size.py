"""A head with as many outputs as the embedding has rows needs no name, and targets of people's own loops are labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes import check_loss
from probes.models.modules import head_by_size

VOCAB = 65


class GPT(nn.Module):
    """As nanoGPT is written: ``targets`` beside ``idx``, -1 where there is none, logits and loss handed back."""

    def __init__(self, outputs=VOCAB, *, tied=False):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {"wte": nn.Embedding(VOCAB, 32), "wpe": nn.Embedding(48, 32), "h": nn.GRU(32, 32, batch_first=True)}
        )
        self.lm_head = nn.Linear(32, outputs, bias=False)
        if tied:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, idx, targets):
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.shape[1]))
        logits = self.lm_head(self.transformer.h(x)[0])
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def batch(*, shift=1, masked=0):
    torch.manual_seed(0)
    data = torch.randint(0, VOCAB, (4, 17))
    targets = data[:, shift : shift + 16].clone()
    targets[:, :masked] = -1
    return {"idx": data[:, :16], "targets": targets}


def loss(model, given):
    return model(given["idx"], given["targets"])[1]


@pytest.mark.parametrize("model", [GPT(), GPT(tied=True), GPT(128)], ids=["plain", "tied", "padded"])
def test_a_right_loop_is_silent_and_a_copy_is_named(model):
    assert not check_loss(model, batch(), loss).findings
    assert [f.code for f in check_loss(model, batch(shift=0), loss).findings] == ["LA102"]


def test_targets_of_minus_one_are_ignored():
    report = check_loss(GPT(), batch(masked=4), loss)
    assert not report.findings
    assert report.streams["text"]["supervised"] == 4 * 12


def test_what_is_trained_beyond_the_targets_is_named():
    def forgets(model, given):
        return F.cross_entropy(model(**given)[0][:, :-1].flatten(0, 1), given["idx"][:, 1:].flatten())

    assert "LA202" in [f.code for f in check_loss(GPT(), batch(masked=4), forgets).findings]


def test_two_layers_that_fit_are_a_choice():
    model = GPT()
    model.other = nn.Linear(32, VOCAB)
    assert head_by_size(model) == ""
    assert head_by_size(GPT()) == "lm_head"
