"""The jury of random losses: what is true is found without the product, and a few programs are judged."""

from dataclasses import replace

import pytest
from random_choices import ALIGNED, FAULTS, SHIFTED
from random_drawing import drawn, is_meant
from random_losses import RIGHT, judged, shrunk
from random_programs import OUTSIDE, Program

from alignment.recovery import Form

NUMBERS = range(60)
#: Of a fixed seed, judged here; thousands by the command (docs/random-losses.md).
JUDGED = range(40)


@pytest.mark.parametrize("pairing", ALIGNED)
def test_every_pairing_of_aligned_labels_meets_the_token_after_each_row(pairing):
    program = Program(samples=2, length=4, pairing=pairing)
    assert program.met == program.wanted == {0: 1, 1: 2, 2: 3, 4: 5, 5: 6, 6: 7}
    assert program.allowed == frozenset()


@pytest.mark.parametrize("pairing", SHIFTED)
def test_every_pairing_of_windows_meets_the_token_after_the_window_too(pairing):
    program = Program(samples=2, length=3, labels="stream", key="wanted", pairing=pairing)
    assert program.met == program.wanted == {0: 1, 1: 2, 2: OUTSIDE + 2, 3: 4, 4: 5, 5: OUTSIDE + 5}


def test_a_loop_over_samples_meets_the_same():
    program = Program(samples=3, mask="prompt", padding="right")
    assert replace(program, loop=True).met == program.met == program.wanted


NAMED = {
    "copy": {"LA102"},
    "double shift": {"LA103"},
    "three ahead": {"LA104"},
    "prompt trained": {"LA202"},
    "sample dropped": {"LA201", "LA203"},
    "one piece": {"LA204"},
    "detached": {"LA605"},
    "length": {"LA101"},
    "half trained": {"LA201", "LA203"},
    "mask of the row": {"LA201", "LA202", "LA203"},
    "mean of means": {"LA302"},
    "one too many": {"LA302"},
    "other book": {"LA106"},
    "joined": {"LA204"},
}


@pytest.mark.parametrize("fault", [*FAULTS, "joined", "one too many"])
def test_every_fault_has_a_name(fault):
    mask = "prompt" if fault in ("prompt trained", "mask of the row") else ""
    assert Program(fault=fault, mask=mask).allowed == NAMED[fault]


def test_half_of_the_programs_are_right_and_the_others_are_wrong_where_their_tokens_show_it():
    programs = [drawn(0, number) for number in NUMBERS]
    assert [bool(one.fault) for one in programs] == [bool(number % 2) for number in NUMBERS]
    assert all(one.allowed == frozenset() for one in programs if not one.fault)
    assert all(one.allowed for one in programs if one.fault)
    assert programs == [drawn(0, number) for number in NUMBERS] != [drawn(1, number) for number in NUMBERS]


def test_a_program_is_a_script():
    assert compile(drawn(0, 1).script(), "program.py", "exec")


@pytest.mark.parametrize("first", JUDGED[::10])
def test_programs_of_a_fixed_seed_are_judged_rightly(first):
    told = {number: judged(drawn(11, number), replay=number % 10 < 2) for number in range(first, first + 10)}
    assert {number: one for number, one in told.items() if one.kind not in RIGHT} == {}


def test_a_reader_that_is_wrong_is_seen_and_shrunk(monkeypatch):
    def blind(grad, logits, token):
        return token * 0 + int(Form.SOFT), grad[:, 0], grad[:, 0]

    monkeypatch.setattr("alignment.recovery._by_columns", blind)
    program = Program(criterion="bce", samples=2, length=5, mask="prompt", pairing="roll")
    outcome = judged(program)
    assert outcome.kind == "blind"
    assert shrunk(program, outcome) == replace(Program(), criterion="bce", seed=program.seed)


def test_choices_that_do_not_go_together_are_not_drawn():
    assert not is_meant(Program(model="t5", labels="aligned"))
    assert not is_meant(Program(logits="kernel", criterion="bce"))
    assert not is_meant(Program(reduction="token-mean", criterion="sum"))
    assert is_meant(Program())
