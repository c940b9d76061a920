"""Random losses as training scripts: a few of a fixed seed, each watched for one step."""

from dataclasses import replace

import pytest
from random_losses import RIGHT
from random_programs import Program
from random_runs import judged, scripts

SCRIPTS = [pytest.param(program, id=str(number)) for number, program in scripts(3, 24)]


@pytest.mark.parametrize("program", SCRIPTS)
def test_a_script_is_judged_rightly_or_called_blind(program):
    assert judged(program).kind in (*RIGHT, "blind")


@pytest.mark.parametrize(("fault", "code"), [("copy", "LA102"), ("double shift", "LA103"), ("three ahead", "LA104")])
@pytest.mark.parametrize("loop", [False, True], ids=["at once", "sample by sample"])
def test_faults_are_named_by_the_steps_forwards_together(fault, code, loop):
    program = Program(key="wanted", samples=4, ids="frequent", vocab=40, fault=fault, loop=loop, seed=4)
    assert judged(replace(program, fault="")).kind == "silent"
    assert judged(program).codes == (code,)


def test_rows_in_another_order_behind_a_layer_are_blind():
    program = Program(key="wanted", labels="stream", samples=4, logits="layer and rows", pairing="backwards")
    assert judged(program).kind == "blind"
    assert "LA105" not in judged(replace(program, pairing="direct")).codes


def test_a_main_head_that_cannot_be_read_says_nothing_of_what_a_further_call_must_train():
    program = Program(key="wanted", logits="body and head", extra="two ahead", samples=4, criterion="bce")
    outcome = judged(program)
    assert outcome.kind == "blind"
    assert outcome.codes[0] == "LA802"


@pytest.mark.parametrize(("fault", "code"), [("double shift", "LA103"), ("three ahead", "LA104")])
def test_a_main_head_at_a_wrong_place_says_nothing_of_what_a_further_call_must_train(fault, code):
    program = Program(key="wanted", logits="body and head", extra="two ahead", samples=2, fault=fault)
    assert judged(program).codes == (code,)


def test_rows_of_ids_that_are_alike_are_not_said_to_cross_a_border():
    """Their rows of the body are alike too, bit for bit: where each belongs does not show."""
    program = Program(key="wanted", model="tied", vocab=12, samples=5, length=4, ids="constant", logits="chunks")
    assert judged(replace(program, pairing="roll", criterion="one-hot")).kind == "blind by right"


@pytest.mark.parametrize("logits", ["rows first", "chunks"])
@pytest.mark.parametrize("ids", ["alike", "constant"])
def test_rows_that_are_alike_are_in_the_order_that_the_labels_demand(logits, ids):
    """Which of them has no target does not show: the last sample, or the one that is selected last."""
    program = Program(key="wanted", samples=5, length=8, mask="sample", ids=ids, logits=logits, seed=7)
    for pairing in ("shortest first", "labelled"):
        assert judged(replace(program, pairing=pairing)).kind in ("silent", "blind by right")


def test_a_fault_of_rows_that_are_alike_is_named_in_whatever_order_they_are():
    program = Program(key="wanted", samples=5, length=8, mask="sample", ids="alike", logits="rows first", seed=7)
    for fault, code in (("copy", "LA102"), ("double shift", "LA103")):
        assert judged(replace(program, pairing="labelled", fault=fault)).codes == (code,)


def test_ids_alike_that_fit_both_conventions_are_held_to_the_one_that_fits_what_is_trained():
    program = Program(key="wanted", vocab=12, samples=3, length=10, ids="constant", mask="prompt", padding="right")
    program = replace(program, labels="shifted", logits="rows first", pairing="direct", loop=True, seed=723887)
    assert judged(program).kind == "blind by right"


def test_samples_that_are_alike_say_of_an_offset_what_one_of_them_does():
    program = Program(key="wanted", vocab=12, samples=5, length=4, ids="alike", mask="prompt", labels="shifted")
    program = replace(program, logits="whole model", pairing="direct", fault="double shift", seed=624128)
    assert judged(program).kind in ("named", "blind")
