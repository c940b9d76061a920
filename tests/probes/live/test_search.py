"""``run`` on models that nobody knows: streams that the first step shows are watched, and said to be found."""

import copy

import pytest
import torch
import torch.nn.functional as F
from finder_models import BESIDE, Beside
from live_runs import loop, same_state, watched
from speech_models import SPEECH
from speech_zoo import ZOO, by_name, ce, ids
from torch.overrides import _len_torch_function_stack

#: Their heads give a row for each id, or are parameters, slices, chunks, on another axis, behind rows put in front:
#: whether one of their wrong losses is tried here too.
READ = {
    "text and K codebooks": False,
    "windows": False,
    "cut inside the loss": False,
    "text then mel": False,
    "built inside": True,
    "codebooks folded into the batch": True,
    "translator": False,
    "head in chunks": True,
    "convolution as a head": True,
    "tied, without a head": True,
    "time before samples": True,
    "several ahead": False,
    "text, reference and mel": False,
}
QUICK = {"text and K codebooks", "several ahead", *(name for name, is_tried in READ.items() if is_tried)}
#: Nothing says what must be trained, or a part of it is made outside the forward and cannot be made again.
BLIND = {
    "channels of several vocabularies": "LA804",
    "backbone and depth decoder": "LA805",
    "masked levels": "LA804",
}


def train(model, loss, batch, steps=4):
    torch.manual_seed(0)
    loop(model, loss, [batch] * steps, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3))


def run(one, loss):
    torch.manual_seed(0)
    report, _ = watched(lambda: train(one.model(), loss, one.batch()))
    return report


def errors(report):
    return {finding.code for finding in report.findings if finding.is_error}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.deep) for name in READ])
def test_a_right_loss_passes(name):
    one = by_name(name)
    report = run(one, one.right)
    assert report.verdict == "pass", report.in_short()
    assert {offset for stream in report.streams.values() for offset in stream["offsets"]} <= {"1", "2", "3", "outside"}
    assert any(note.startswith("streams found: ") for note in report.notes)


@pytest.mark.parametrize("name", [name for name, is_tried in READ.items() if is_tried])
def test_a_wrong_loss_has_its_code(name):
    one = by_name(name)
    loss, code = [*one.wrong.values()][-1]
    assert errors(run(one, loss)) == {code}


@pytest.mark.parametrize("name", ["text and K codebooks", "windows", "translator", "one dimension"])
def test_a_copy_fails(name):
    one = by_name(name)
    assert errors(run(one, one.wrong["copy"][0])) == {"LA102"}


@pytest.mark.parametrize("name", ["text and K codebooks", "several ahead", "tied, without a head"])
def test_training_is_the_same_bit_for_bit(name):
    one = by_name(name)
    model, batch = one.model(), one.batch()
    twin = copy.deepcopy(model)
    watched(lambda: train(model, one.right, batch))
    train(twin, one.right, batch)
    assert same_state(model, twin)


def test_the_first_step_is_seen_through_a_mode_that_is_gone_with_it():
    """A backward is a function too: torch puts back, as it returns, the modes that it had as it began."""
    one, depths = by_name("windows"), []
    batch = one.batch()

    def loss(model, given):
        depths.append(_len_torch_function_stack())
        return one.right(model, given)

    watched(lambda: train(one.model(), loss, batch, steps=3), steps=3)
    assert depths[1:] == [0, 0]


def test_a_sequence_that_the_model_lengthens_is_placed_by_its_forward():
    one = by_name("text then mel")
    assert "LA103" in errors(run(one, one.wrong["shifted again"][0]))


@pytest.mark.parametrize("name", BLIND)
def test_what_cannot_be_said_is_a_blind_spot(name):
    one = by_name(name)
    report = run(one, one.right)
    assert report.verdict == "incomplete"
    assert {finding.code for finding in report.findings} == {BLIND[name]}


def test_heads_trained_on_codebooks_of_others_are_named_where_only_some_are_trained():
    one = next(one for one in SPEECH if "heard" in one.name)
    assert errors(run(one, one.wrong["user in place of its own"][0])) == {"LA106"}


@pytest.mark.deep
@pytest.mark.parametrize("one", ZOO, ids=lambda one: one.name)
def test_with_nothing_named_a_right_loss_has_no_error_and_a_wrong_one_its_code_or_a_blind_spot(one):
    """Nothing can be renamed in a script that runs: what its first step does not show is INCOMPLETE, never a PASS."""
    assert not errors(run(one, one.right))
    for fault, (loss, code) in one.wrong.items():
        report = run(one, loss)
        if fault != "speakers swapped":  # a head that is called for each of two has no number to be held to
            assert code in errors(report) or (report.verdict, errors(report)) == ("incomplete", set()), fault


def test_targets_that_are_no_inputs_are_not_guessed():
    kept = ids(5, 64, 2, 12)
    report, _ = watched(lambda: train(Beside(), lambda m, b: ce(m(b["x"])[0], kept), {"x": BESIDE["x"]}))
    assert report.verdict == "incomplete"
    assert "head (2, 12, 64)" in report.findings[0].message
    assert "not clear" in report.findings[0].message


def test_a_classifier_beside_them_is_a_note():
    def loss(model, batch):
        logits, classes, _, _ = model(batch["x"])
        return ce(logits[:, :-1], batch["x"][:, 1:]) + F.cross_entropy(classes, batch["y"])

    report, _ = watched(lambda: train(Beside(), loss, BESIDE))
    assert report.verdict == "pass"
    assert "also trained: classes (2, 5): a choice among 5" in report.notes
