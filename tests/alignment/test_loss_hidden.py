"""The dual loss from hidden states: the head sees labelled rows alone, and nothing else changes."""

import logging

import pytest
import torch
import torch.nn.functional as F
from higgs_setting import Setting
from strategies import End, HiggsCase, Reference, Target, Text

from alignment import IGNORE_INDEX, InputError, dual_loss
from alignment.cross_entropy import mean_cross_entropy

__ = IGNORE_INDEX
EXAMPLE = HiggsCase(
    (
        (Text(4, "nothing"), Reference(2), Text(5, "all"), Target(3, trained=True), End(labelled=True)),
        (Text(3, "prompt masked"), Target(2, trained=False), Text(2, "all")),
    ),
    use_delay_pattern=True,
)


class Hidden:
    """The text logits of a setting as a head makes them of hidden states, and both ways to their loss."""

    def __init__(self, dtype=torch.float32, case=EXAMPLE, bias=True):
        self.setting = Setting(case, dtype)
        generator = torch.Generator().manual_seed(0)
        shape, vocab = self.setting.logits.shape[:2], self.setting.logits.shape[-1]
        self.hidden = torch.randn(*shape, 16, generator=generator).to(dtype).requires_grad_()
        self.head = torch.nn.Linear(16, vocab, bias=bias)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.head.to(dtype)
        self.wanted = [self.hidden, *self.head.parameters()]

    def ours(self, **changed):
        outputs = {**self.setting.outputs(), "logits": None, **changed}
        return dual_loss(outputs, self.setting.batch, hidden=self.hidden, head=self.head, **self.setting.tokens).text

    def plain(self, dtype):
        """All positions through the head, in ``dtype``; on copies, so that gradients are those of this dtype."""
        copies = [tensor.detach().to(dtype).requires_grad_() for tensor in self.wanted]
        logits = F.linear(*copies)
        logits = logits if dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits.flatten(0, 1), self.setting.shifted().flatten()), copies


def kept(ours, truth, reference):
    """Within the reference's own error, and a few roundings."""
    eps = 2 * torch.finfo(ours.dtype).eps * truth.abs().max().clamp(min=1e-3)
    error, allowed = ((truth - other.double()).abs().max() for other in (ours, reference))
    return bool(error <= allowed + eps)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_from_hidden_states_value_and_gradients_are_those_of_the_logits(dtype, bias):
    case = Hidden(dtype, bias=bias)
    ours = case.ours()
    assert ours.dtype == torch.float32
    truth, exact = case.plain(torch.float64)
    reference, near = case.plain(dtype)
    assert kept(ours.detach(), truth.detach(), reference.detach())
    gradients = [torch.autograd.grad(ours, case.wanted)]
    gradients += [torch.autograd.grad(loss, wanted) for loss, wanted in ((truth, exact), (reference, near))]
    for mine, true, other in zip(*gradients, strict=True):
        assert kept(mine, true, other)
        assert not kept(mine + 0.05 * true.abs().max().to(mine), true, other)


def test_from_hidden_states_the_head_sees_labelled_rows_alone():
    case, seen = Hidden(), []
    case.head.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    loss = case.ours()
    assert sum(seen) == int((case.setting.shifted() != __).sum())
    (grad,) = torch.autograd.grad(loss, case.hidden)
    assert torch.equal(grad.any(-1), case.setting.shifted() != __)


def test_the_head_sees_labelled_rows_alone_where_nearly_all_are():
    rows, targets, seen = torch.randn(20, 4), torch.arange(20) % 4, []
    targets[7] = __
    loss = mean_cross_entropy(rows, targets, lambda some: seen.append(len(some)) or some)
    assert seen == [19]
    assert torch.allclose(loss, F.cross_entropy(rows, targets))


def test_from_hidden_states_the_fallback_is_the_same():
    case = Hidden()
    assert torch.equal(case.ours(), case.ours(expanded_labels=None))


def test_from_hidden_states_without_a_label_the_loss_is_a_zero_tied_to_all_of_them():
    case = Hidden(case=HiggsCase(((Text(3, "nothing"),),), use_delay_pattern=True))
    loss = case.ours()
    assert float(loss.detach()) == 0
    assert all(not bool(grad.any()) for grad in torch.autograd.grad(loss, case.wanted))
    bare = dual_loss({}, {}, hidden=case.hidden, head=case.head)
    assert (bare.text_decision, float(bare.total.detach())) == (None, 0)
    assert all(not bool(grad.any()) for grad in torch.autograd.grad(bare.total, case.wanted))


@pytest.mark.parametrize("where", ["labelled", "unlabelled"])
def test_from_hidden_states_nan_shows_where_it_is_trained(where):
    case = Hidden()
    row = torch.nonzero((case.setting.shifted() != __) == (where == "labelled"))[0]
    with torch.no_grad():
        case.hidden[tuple(row)] = float("nan")
    assert bool(case.ours().isnan()) is (where == "labelled")


def test_hidden_states_and_their_head_go_together():
    case = Hidden()
    for alone in ({"hidden": case.hidden}, {"head": case.head}):
        told = "hidden and head go together: pass what the text head reads, and the head"
        with pytest.raises(InputError, match=f"^{told}$"):
            dual_loss(case.setting.outputs(), case.setting.batch, **alone)


def test_from_hidden_states_the_log_says_that_it_was(caplog):
    with caplog.at_level(logging.INFO, logger="alignment"):
        case = Hidden()
        case.ours()
    assert f"Text hidden states shape: {tuple(case.hidden.shape)}" in [one.getMessage() for one in caplog.records]
