"""LA801: logits over tokens that the loss trains and no judged stream explains; every other head is a note."""

import pytest
import torch
import torch.nn.functional as F
from finder_models import BESIDE, TEXT, Beside, beside, llama, next_token, own
from speech_zoo import by_name, ce

from probes import check_loss
from probes.finder import guard as guards
from probes.finder.graph import Graph

BOOKS = by_name("text and K codebooks")
TEXT_ALONE = {"text": BOOKS.streams["text"]}
HEAD = {"text": {"head": "head", "ids": "x"}}


def unwatched(report):
    return [(finding.code, finding.stream) for finding in report.findings if finding.code == "LA801"]


@pytest.mark.parametrize("loss", [BOOKS.right, *(loss for loss, _ in BOOKS.wrong.values())])
def test_codebook_heads_that_nobody_watches_are_named_by_path_and_shape(loss):
    report = check_loss(BOOKS.model(), BOOKS.batch(), loss, streams=TEXT_ALONE)
    assert report.verdict == "incomplete"
    assert len(unwatched(report)) == 4
    assert "64)" in report.findings[0].message


def test_the_same_with_a_head_named_by_its_path():
    report = check_loss(BOOKS.model(), BOOKS.batch(), BOOKS.right, heads=[BOOKS.streams["text"]["head"]])
    assert len(unwatched(report)) == 4


def test_heads_that_are_left_out_on_purpose_are_accepted_by_name():
    heads = BOOKS.streams["audio[{k}]"]["head"].partition(".")[0]
    report = check_loss(BOOKS.model(), BOOKS.batch(), BOOKS.right, streams=TEXT_ALONE, ignore=[f"LA801:{heads}"])
    assert report.verdict == "pass"
    assert sum("accepted: LA801" in note for note in report.notes) == 4


def test_judged_heads_are_no_blind_spot():
    assert not unwatched(check_loss(BOOKS.model(), BOOKS.batch(), BOOKS.right, streams=BOOKS.streams))


def test_classes_values_and_contrasts_are_notes():
    report = check_loss(Beside(), BESIDE, beside, streams=HEAD)
    assert report.verdict == "pass"
    assert "also trained: classes (2, 5): a classifier over 5 classes (y)" in report.notes
    assert "also trained: value (2, 12, 1)" in report.notes


def test_targets_that_are_no_inputs_are_a_blind_spot_too():
    kept = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(9))

    def loss(model, batch):
        hidden = model(batch["x"])[3]
        return next_token(model, batch) + ce(F.linear(hidden, model.embed.weight), kept)

    report = check_loss(Beside(), BESIDE, loss, streams=HEAD)
    assert unwatched(report) == [("LA801", "embed.weight")]
    assert "no input" in report.findings[-1].message


def test_a_judged_head_that_is_used_past_its_module_is_seen():
    def loss(model, batch):
        logits, _, _, hidden = model(batch["x"])
        return ce(logits[:, :-1], batch["x"][:, 1:]) + ce(F.linear(hidden.tanh(), model.head.weight), batch["x"])

    assert unwatched(check_loss(Beside(), BESIDE, loss, streams=HEAD)) == [("LA801", "head.weight")]


@pytest.mark.parametrize(("due", "found"), [(False, {"LA801", "LA804"}), (True, {"LA801", "LA205"})])
def test_a_head_that_has_no_target_beside_one_that_is_trained_is_no_constant_loss(due, found):
    """Masked levels of a codec, one trained at a time: nothing of the watched level is wrong, and none was judged."""
    codes = torch.randint(3, 60, (2, 12, 2), generator=torch.Generator().manual_seed(4))
    hidden = codes.masked_fill(torch.arange(12)[:, None] % 2 == 0, 63)

    class Levels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(64, 16)
            self.mix = torch.nn.GRU(16, 16, batch_first=True, bidirectional=True)
            self.heads = torch.nn.ModuleList(torch.nn.Linear(32, 64) for _ in range(2))

        def forward(self, input_ids):
            rows = self.mix(self.embed(hidden[..., 0]) + self.embed(input_ids))[0]
            return torch.stack([head(rows) for head in self.heads], 2)

    def loss(model, batch):
        targets = codes.masked_fill(hidden != 63, -100)
        targets[..., 1] = -100  # the first level alone
        return ce(model(batch["input_ids"]), targets)

    labels = torch.full_like(codes[..., 1], -100)
    if due:
        labels[:, ::2] = codes[:, ::2, 1]
    report = check_loss(Levels(), {"input_ids": hidden[..., 1], "labels": labels}, loss, heads=["heads.1"])
    assert report.verdict == ("fail" if due else "incomplete")
    assert {one.code for one in report.findings} == found


def test_the_second_call_of_a_head_of_which_one_is_judged():
    def loss(model, batch):
        hidden = model(batch["x"])[3]
        near, far = model.head(hidden), model.head(hidden.tanh())
        return ce(near[:, :-1], batch["x"][:, 1:]) + ce(far[:, :-2], batch["x"][:, 2:])

    first = {"text": {**HEAD["text"], "call": 1}}
    assert unwatched(check_loss(Beside(), BESIDE, loss, streams=first)) == [("LA801", "head")]
    both = {**first, "mtp": {**HEAD["text"], "call": 2, "ahead": 2}}
    assert not unwatched(check_loss(Beside(), BESIDE, loss, streams=both))


def test_nothing_is_run_where_all_parameters_feed_the_judged_heads(monkeypatch):
    monkeypatch.setattr(guards, "graph_of", lambda *_: pytest.fail("the loss was run once more"))
    assert check_loss(llama(), TEXT, own).verdict == "pass"


class Bare(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = torch.nn.Embedding(97, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 97)

    def forward(self, input_ids):
        return self.head(self.mix(self.table(input_ids)))


@pytest.mark.parametrize(("other", "runs"), [(3, 2), (97, 3)], ids=["no head", "a head that is left out"])
def test_a_loss_whose_graph_chose_the_adapter_is_walked_again_only_for_heads_beside(other, runs):
    ran = []

    def loss(model, batch):
        ran.append(model)
        logits = model(batch["input_ids"])
        return ce(logits[:, :-1], batch["input_ids"][:, 1:])

    model, ids = Bare(), torch.randperm(97)[:64].reshape(4, 16)
    model.other = torch.nn.Linear(8, other)
    report = check_loss(model, {"input_ids": ids, "labels": ids}, loss, heads=["head"], replay=False)
    assert (len(ran), report.verdict) == (runs, "pass")


def test_nothing_is_searched_where_the_graph_shows_that_all_goes_through_judged_heads(monkeypatch):
    monkeypatch.setattr(guards, "look_beside", lambda *_: pytest.fail("the loss was searched"))
    assert not unwatched(check_loss(BOOKS.model(), BOOKS.batch(), BOOKS.right, streams=BOOKS.streams))


def test_no_trace_is_left():
    model = Beside()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_loss(model, BESIDE, beside, streams=HEAD)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def decayed(model, batch):
    """A loss that decays all weights by itself, those of a head that is not trained among them."""
    return next_token(model, batch) + 1e-3 * sum(one.pow(2).sum() for one in model.parameters())


def test_a_penalty_on_the_weights_is_no_use_of_a_head():
    report = check_loss(Beside(), BESIDE, decayed, streams=HEAD)
    plain = check_loss(Beside(), BESIDE, next_token, streams=HEAD)
    assert [(one.code, one.stream) for one in report.findings] == [(one.code, one.stream) for one in plain.findings]
    assert report.verdict == plain.verdict


@pytest.mark.parametrize("penalty", [torch.norm, lambda w: w.abs().mean(), lambda w: (w - w.detach()).square().sum()])
def test_penalties_of_any_form_are_told_from_rows(penalty):
    module = torch.nn.Linear(4, 4)
    loss = module(torch.ones(2, 4)).sum() + sum(penalty(one) for one in module.parameters())
    assert Graph(loss.grad_fn, (), (), frozenset()).reaches() == {id(one) for one in module.parameters()}
    alone = sum(penalty(one) for one in module.parameters())
    assert Graph(alone.grad_fn, (), (), frozenset()).reaches() == frozenset()
