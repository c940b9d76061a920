"""Logits that the loss multiplies after their head: a target whose gradient vanishes there is unread, not untrained."""

import pytest
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, mean, watched

SURE = 10  # columns before this one are answered well already


def good(model, seen):
    """The model, its head sure of the targets of a batch's first columns."""

    def sure(_module, _args, logits):
        after = F.pad(seen["labels"][:, 1:], (0, 1), value=-100)
        lift = 6.0 * F.one_hot(after.clamp(min=0), VOCAB) * (after != -100)[..., None]
        lift[:, SURE:] = 0
        return logits + lift

    model.lm_head.register_forward_hook(sure)
    return model


def run(scale, first=0):
    seen = {}
    model = good(llama(), seen)

    def loss(model, batch):
        seen.update(batch)
        return mean(model(**batch).logits[first:] * scale, batch["labels"][first:])

    return watched(lambda: loop(model, loss, batches(3)))[0]


def told(report):
    return [(one.code, one.stream) for one in report.findings]


@pytest.mark.parametrize("scale", [1, 4])
def test_a_good_model_passes(scale):
    assert (told(run(scale)), run(scale).verdict) == ([], "pass")


def test_a_temperature_that_makes_gradients_vanish():
    report = run(30)
    assert (told(report), report.verdict) == ([("LA802", "text")], "incomplete")


def test_a_sample_that_is_not_trained_is_missed_all_the_same():
    assert ("LA201", "text") in told(run(4, first=1))
