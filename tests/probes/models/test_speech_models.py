"""Speech models as they are public today, declared: a right trainer is silent, and each wrong one has its code."""

import pytest
import torch
from speech_models import SPEECH

from probes import check_loss


def checked(one, loss, *, replay=True):
    torch.manual_seed(0)
    return check_loss(one.model(), one.batch(), loss, streams=one.streams, replay=replay)


@pytest.mark.parametrize("one", SPEECH, ids=lambda one: one.name)
def test_a_right_trainer_passes(one):
    report = checked(one, one.right)
    assert not report.findings
    assert report.verdict == "pass"
    for name, stream in report.streams.items():
        assert bool(stream["supervised"]) is (name not in one.silent), name


@pytest.mark.parametrize(
    ("one", "fault"),
    [(one, fault) for one in SPEECH for fault in one.wrong],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_wrong_trainer_has_its_code(one, fault):
    loss, code = one.wrong[fault]
    found = checked(one, loss, replay=code.startswith("LA4")).findings  # no other code needs it
    assert code in {f.code for f in found if f.is_error}


def test_a_head_of_no_tokens_is_a_note():
    one = next(each for each in SPEECH if "diffusion" in each.name)
    report = checked(one, one.right)
    assert any("also trained" in note and "diffusion_head" in note for note in report.notes)
