"""Barcodes: any mapping of a loss is recovered exactly, with any vocabulary."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from planted import plain_stream
from strategies import mappings

from alignment import IGNORE_INDEX, InputError, recover
from alignment.barcode import barcode, resolve_sources
from alignment.recovery import silent_reading
from alignment.sources import infer_sources

__ = IGNORE_INDEX


def streams_of(sizes, vocab=50):
    return [plain_stream([0] * size, name=f"audio[{n}]", vocab=vocab) for n, size in enumerate(sizes)]


def written(code, mapping, digit):
    """What a loss with this mapping trains in one pass: per stream its rows' targets."""
    sizes = [len(rows) for rows in mapping.targets]
    ids = torch.cat([code.codes(n, size, digit) for n, size in enumerate(sizes)])
    ids = torch.cat([ids, torch.tensor([code.foreign(digit)])]).tolist()
    return [torch.tensor([__ if to is None else ids[to] for to in rows]) for rows in mapping.targets]


@given(mappings(), st.integers(0, 10**6))
def test_any_mapping_is_recovered(mapping, start):
    sizes = [len(rows) for rows in mapping.targets]
    code = barcode(streams_of(sizes), torch.tensor(mapping.usable))
    code = replace(code, start=start % len(code.usable))
    assert code.passes == max(1, math.ceil(math.log(code.total + 1, len(mapping.usable)) - 1e-9))
    places = [(n, row) for n, size in enumerate(sizes) for row in range(size)] + [(-1, -1)]
    passes = [written(code, mapping, digit) for digit in range(code.passes)]
    for n, rows in enumerate(mapping.targets):
        origin, source = code.decode([targets[n] for targets in passes])
        wanted = [(-1, -1) if to is None else places[to] for to in rows]
        assert list(zip(origin.tolist(), source.tolist(), strict=True)) == wanted


def test_a_foreign_id_names_no_input():
    code = barcode(streams_of([5]), torch.arange(1, 11))
    origin, source = code.decode([torch.tensor([3, 40, -7, code.foreign(0), __])])
    assert (origin.tolist(), source.tolist()) == ([0, -1, -1, -1, -1], [2, -1, -1, -1, -1])


@pytest.mark.parametrize("unread", [0, 1])
def test_a_target_that_one_pass_cannot_read_names_no_input(unread):
    code = barcode(streams_of([12]), torch.arange(10))
    targets = [code.codes(0, 12, digit) for digit in range(code.passes)]
    targets[unread][9] = 40
    origin, source = code.decode(targets)
    assert origin.tolist() == [0] * 9 + [-1, 0, 0]
    assert source.tolist() == [*range(9), -1, 10, 11]


@pytest.mark.parametrize(("rows", "base", "passes"), [(9, 10, 1), (10, 10, 2), (99, 10, 2), (100, 10, 3), (3, 2, 2)])
def test_as_many_passes_as_the_numbers_have_digits(rows, base, passes):
    assert barcode(streams_of([rows]), torch.arange(base)).passes == passes


def test_no_row_keeps_its_own_token_where_the_ids_suffice():
    stream = plain_stream([0, 2, 4, 6], vocab=16)
    code = barcode([stream], torch.arange(16))
    assert not torch.isin(stream.ids, code.usable).any()
    assert barcode([plain_stream(list(range(12)), vocab=16)], torch.arange(16)).usable.tolist() == list(range(16))


@pytest.mark.parametrize(
    "ids",
    [[0, 1, 2, 3, 4, 5], [1, 1, 2, 3], [5, 6, 3, 3, 4, 5, 7, 7], [3]],
    ids=["counted", "beside", "repeated", "one"],
)
def test_no_row_keeps_its_own_token_in_the_lowest_digit_where_all_ids_are_in_use(ids):
    """A row that is trained on the same token under every barcode is one whose labels were not renamed."""
    code = barcode([plain_stream(ids, vocab=8)], torch.arange(8))
    assert not bool((code.codes(0, len(ids), 0) == torch.tensor(ids)).any())


def test_the_fewest_rows_keep_their_own_token_where_some_must():
    code = barcode([plain_stream([0, 1, 0, 0, 1, 1], vocab=2)], torch.arange(2))
    assert int((code.codes(0, 6, 0) == torch.tensor([0, 1, 0, 0, 1, 1])).sum()) <= 3


def test_the_last_id_counts_among_those_that_rows_would_keep():
    code = barcode([plain_stream([1, 2, 1, 3], vocab=4)], torch.arange(4))
    assert code.start == 2
    assert not bool((code.codes(0, 4, 0) == torch.tensor([1, 2, 1, 3])).any())


@pytest.mark.parametrize(("last", "usable"), [(8, [1, 2, 3, 4, 5, 6, 7]), (9, [1, 3, 5, 7])])
def test_a_token_beside_a_code_is_none_where_the_ids_suffice_for_it(last, usable):
    assert barcode(streams_of([3]), torch.arange(1, last)).usable.tolist() == usable


def test_no_streams_have_a_barcode_of_no_rows():
    code = barcode([], torch.arange(4))
    assert (code.first, code.total, code.passes, code.start) == ((), 0, 1, 0)


def test_neighbours_differ_in_every_pass():
    code = barcode(streams_of([40]), torch.arange(5))
    for digit in range(code.passes):
        ids = code.codes(0, 40, digit)
        assert bool((ids[1:] != ids[:-1]).all())


@pytest.mark.parametrize("usable", [[], [3], [3, 3, 3]], ids=["none", "one", "one-repeated"])
def test_fewer_than_two_ids_write_nothing(usable):
    left = len(set(usable))
    with pytest.raises(InputError, match=f"a barcode needs at least 2 free ids, the vocabulary leaves {left}"):
        barcode(streams_of([4]), torch.tensor(usable))


# -- through a loss -----------------------------------------------------------------------------------


def supervise(stream, usable, loss):
    """Inferred and proven supervision of ``loss(logits, ids)``."""

    def reading(ids):
        return recover(lambda z: loss(z, ids), torch.zeros(len(stream), stream.vocab))

    inferred = infer_sources([reading(stream.ids)], [stream])
    code = barcode([stream], usable)
    passes = [[reading(code.codes(0, len(stream), digit))] for digit in range(code.passes)]
    return inferred[0], resolve_sources(inferred, code, passes)[0]


@pytest.mark.parametrize("offset", [0, 1, 2, -2])
def test_repeated_tokens_are_told_apart(offset):
    stream = plain_stream([7] * 12, vocab=8)

    def loss(z, ids):
        rows = torch.arange(2, 10)
        return F.cross_entropy(z[rows], ids[rows + offset])

    inferred, proven = supervise(stream, torch.arange(4), loss)
    assert not inferred.exact
    assert proven.exact
    assert proven.offset[proven.trained].tolist() == [offset] * 8
    assert proven.origin[proven.trained].tolist() == [0] * 8
    assert torch.equal(proven.target, inferred.target)


def test_a_proven_source_may_lie_in_another_stream_than_the_inferred_one():
    streams = [plain_stream([7] * 4, name=f"audio[{k}]", vocab=16) for k in range(2)]
    code = barcode(streams, torch.arange(16))

    def readings(ids):
        trains = recover(lambda z: F.cross_entropy(z[:-1], ids[1:]), torch.zeros(4, 16))
        return [trains, silent_reading(4)]

    inferred = infer_sources(readings(streams[1].ids), streams)
    proven = resolve_sources(inferred, code, [readings(code.codes(1, 4, 0))])
    assert inferred[0].origin.tolist() == [0, 0, 0, -1]
    assert proven[0].origin.tolist() == [1, 1, 1, -1]
    assert proven[0].source.tolist() == [1, 2, 3, -1]


def test_the_literal_pass_alone_says_what_is_trained():
    stream = plain_stream([7, 8, 9, 8, 7], vocab=10)

    def masks_by_id(z, ids):
        targets = torch.where(ids[1:] == 9, __, ids[1:])
        return F.cross_entropy(z[:-1], targets)

    _, proven = supervise(stream, torch.arange(10), masks_by_id)
    assert proven.target.tolist() == [8, __, 8, 7, __]
    assert proven.source.tolist() == [1, -1, 3, 4, -1]


def test_a_row_that_a_pass_does_not_train_keeps_its_inferred_source():
    stream = plain_stream([7, 8, 9, 5], vocab=10)

    def skips_three(z, ids):
        return F.cross_entropy(z[:-1], torch.where(ids[1:] == 3, __, ids[1:]))

    inferred, proven = supervise(stream, torch.arange(10), skips_three)
    assert proven.source.tolist() == inferred.source.tolist() == [1, 2, 3, -1]
    assert inferred.exact
    assert not proven.exact


def test_labels_held_back_by_the_loss_are_no_inputs():
    stream = plain_stream([7, 8, 9, 5], vocab=10)
    held = torch.tensor([6, 6, 6, __])
    _, proven = supervise(stream, torch.arange(5), lambda z, ids: F.cross_entropy(z, held))
    assert proven.source.tolist() == [-1, -1, -1, -1]
    assert proven.trained.tolist() == [True, True, True, False]
    assert proven.target.tolist() == [6, 6, 6, __]
