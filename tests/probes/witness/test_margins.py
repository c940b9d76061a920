"""What tells a target from none has room on both sides, in every dtype; the whole table is a command's."""

import pytest
from margins import DTYPES, HARD, SOFT, measured, rivals

from alignment.recovery import PLAIN_RESIDUAL, RIVAL_PULL, SOFT_RESIDUAL

VOCABULARIES = (12, 1024)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_losses_of_one_target_lie_far_below_the_thresholds(vocab, dtype):
    for name in HARD:
        assert float(measured(name, vocab, DTYPES[dtype]).max()) < PLAIN_RESIDUAL / 4
        assert float(rivals(name, vocab, DTYPES[dtype]).max()) < RIVAL_PULL / 50


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_losses_of_none_lie_above_them(vocab, dtype):
    for name in SOFT:
        residual, rival = measured(name, vocab, DTYPES[dtype]), rivals(name, vocab, DTYPES[dtype])
        assert float(residual.min()) > 5 * PLAIN_RESIDUAL
        assert bool(((residual > SOFT_RESIDUAL) | (rival > RIVAL_PULL)).all())
