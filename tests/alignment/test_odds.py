"""What tokens alone say of an offset: only what contradicts the next token, and not what chance may bring."""

from dataclasses import replace

import pytest
import torch
from planted import plain_stream

from alignment import Convention, compare, expect
from alignment.odds import strays, untold
from alignment.recovery import Form, Reading
from alignment.sources import infer_sources

__ = -100


def trained(ids, targets, *, sample=None, vocab=100):
    """What a loss trains that has these targets, with sources inferred; nobody says what must be trained."""
    stream = plain_stream(ids, vocab=vocab, sample=sample, segment=sample)
    target = torch.tensor(targets)
    form = torch.where(target == __, int(Form.NONE), int(Form.PLAIN))
    weight = (target != __).double()
    (one,) = infer_sources([Reading(target, weight, torch.zeros_like(weight), form)], [stream])
    return replace(one, exact=False)


def told(one):
    nothing = expect(torch.full_like(one.target, __), one.stream, Convention.NONE)
    return [found.code for found in compare([nothing], [one]) if found.code != "LA202"]


#: Two windows whose last targets are no inputs, and whose tokens all stand one to the left as well.
LEFT = [7, 3, 3, 3, 3, 3, 4, 3], [__, __, 3, 3, __, __, 3, 4], [0] * 4 + [1] * 4


def test_what_is_trained_on_the_next_token_strays_nowhere_whatever_explains_it_too():
    ids, targets, sample = LEFT
    one = trained(ids, targets, sample=sample)
    source = torch.where(one.trained, torch.arange(8) - 1, -1)
    one = replace(one, source=source, origin=source.clamp(max=0))
    assert (one.offset[one.trained] == -1).all()
    assert not strays(one).any()
    assert told(one) == []


def test_a_row_that_has_another_target_strays_unless_its_sources_are_proven():
    one = trained([5, 6, 7, 8], [6, 6, 8, 9])
    assert strays(one).tolist() == [False, True, False, False]  # nothing follows the last
    assert not strays(replace(one, exact=True)).any()


@pytest.mark.parametrize(("offset", "code"), [(0, "LA102"), (2, "LA103"), (3, "LA104")])
def test_two_rows_on_rare_tokens_tell_an_offset(offset, code):
    ids = [5, 6, 7, 8, 9]
    targets = [ids[row + offset] if row < 2 else __ for row in range(5)]
    assert told(trained(ids, targets)) == [code]


def test_one_row_alone_tells_none():
    assert told(trained([5, 6, 7, 8, 9], [5, __, __, __, __])) == []


def test_frequent_tokens_stand_anywhere():
    ids = [3, 3, 4, 3, 3, 4, 3, 4]
    few = trained(ids, [3, __, 4, __, __, 4, __, __])
    assert strays(few).tolist() == [False, False, True, False, False, True, False, False]
    assert untold(few, few.trained)
    assert told(few) == []
    more = trained(ids * 4, ids * 4)
    assert not untold(more, more.trained)
    assert told(more) == ["LA102"]


def test_a_small_vocabulary_has_no_rare_tokens():
    """Two tokens that stand once each: three to the right by chance where there are a dozen ids, not among hundreds."""
    ids, targets = [5, 6, 7, 8, 9], [8, 9, __, __, __]
    assert told(trained(ids, targets, vocab=8)) == []
    assert told(trained(ids, targets, vocab=12)) == ["LA104"]
