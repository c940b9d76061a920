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
    told = {number: judged(drawn(11, number), whole=number % 10 < 2) for number in range(first, first + 10)}
    assert {number: one for number, one in told.items() if one.kind not in RIGHT} == {}


#: Programs that the jury has judged wrongly once, by what was wrong.
MENDED = {
    "books of a sampled softmax weigh as they are drawn": Program(model="books", criterion="sampled", seed=640010),
    "two samples that say the same end once": Program(length=7, ids="alike", mask="scattered", seed=663764),
    "a window of four tokens has few of its sources inside": Program(
        samples=3,
        length=4,
        ids="frequent",
        mask="scattered",
        labels="stream",
        key="wanted",
        pairing="labelled",
        fault="double shift",
        seed=927563,
    ),
    "what half of the rows have read does not explain the others": Program(
        length=4, ids="repeated", mask="prompt", labels="shifted", key="wanted", pairing="labelled", seed=865466
    ),
    "an entropy bonus in half precision is written in a few digits": Program(
        vocab=12,
        samples=6,
        length=11,
        padding="right",
        labels="shifted",
        key="shift_labels",
        after="float16",
        pairing="direct",
        extra="entropy",
        seed=37482,
    ),
    "the last target of a window is no input, and beside a bonus": Program(
        model="t5",
        mask="prompt",
        labels="shifted",
        after="padded columns",
        pairing="direct",
        extra="entropy",
        seed=308411,
    ),
    "rows are pushed away under columns that are cut off": Program(
        vocab=12, after="padded columns", criterion="preference", seed=386365
    ),
    "the last row of a window is pushed away": Program(
        model="t5", labels="shifted", pairing="labelled", criterion="preference", loop=True, seed=685447
    ),
    "a penalty on the weights is no second head": Program(
        model="plain", logits="layer and rows", pairing="flatten", extra="weights", seed=486045
    ),
    "nor does it hide which rows are trained": Program(
        model="plain", mask="prompt", logits="chunks", extra="weights", fault="mask of the row", seed=154473
    ),
    "a barcode of ids that the loss cuts off": Program(
        vocab=12, samples=1, ids="frequent", mask="prompt", after="padded columns", fault="three ahead", seed=229117
    ),
    "a barcode that happens to leave a token as it is": Program(
        model="plain", length=4, ids="repeated", mask="sample", fault="three ahead", seed=563378
    ),
    "two rows are pulled towards a token that stands elsewhere too": Program(
        vocab=12,
        length=6,
        ids="frequent",
        mask="prompt",
        padding="right",
        labels="shifted",
        key="wanted",
        pairing="backwards",
        criterion="preference",
        seed=360105,
    ),
    "windows of common tokens that stand one to the left as well": Program(
        vocab=12,
        length=4,
        ids="frequent",
        mask="prompt",
        labels="stream",
        key="wanted",
        pairing="backwards",
        seed=72242,
    ),
    "two spans that happen to stop before the same token": Program(
        samples=1, length=12, mask="scattered", labels="shifted", key="shift_labels", pairing="backwards", seed=712393
    ),
    "and beside a prompt that is trained": Program(
        samples=1, ids="frequent", mask="scattered", fault="prompt trained", seed=580458
    ),
    "one of five samples that are alike is skipped": Program(
        samples=5, length=4, ids="alike", mask="scattered", loop=True, seed=142112
    ),
    "a step of which half is trained is not divided twice": Program(
        model="t5",
        labels="shifted",
        pairing="backwards",
        reduction="token-mean",
        accumulated=True,
        fault="half trained",
        seed=856157,
    ),
}


@pytest.mark.parametrize("program", MENDED.values(), ids=MENDED)
def test_what_was_judged_wrongly_once_is_judged_rightly(program):
    assert is_meant(program)
    assert judged(program).kind in RIGHT


def test_a_fault_of_one_row_under_a_key_of_ones_own_is_not_judged():
    program = Program(
        length=5, ids="repeated", mask="sample", key="wanted", criterion="preference", fault="three ahead", seed=653023
    )
    assert is_meant(program)
    assert judged(program).kind == "blind"


def test_choices_are_drawn_from_those_that_are_named():
    where = {"ids": ["alike", "constant"], "samples": [2], "fault": ["copy"]}
    programs = [drawn(0, number, where) for number in range(12)]
    assert {one.ids for one in programs} == {"alike", "constant"}
    assert {one.samples for one in programs} == {2}
    assert [one.fault for one in programs] == ["", "copy"] * 6
    with pytest.raises(ValueError, match="no program has these choices together"):
        drawn(0, 0, {"model": ["t5"], "labels": ["aligned"]})


def test_a_replay_goes_on_with_ids_that_the_loss_knows():
    program = Program(vocab=40, samples=3, after="padded columns", criterion="categorical", kind="int32", seed=836211)
    assert judged(program, whole=True).kind == "silent"


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
