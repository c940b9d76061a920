"""Tokens in sentences: named by their ids, and once by their words where somebody knows them."""

import pytest

from alignment.wording import agreeing, counted, tokens_named, tokens_spelled

WORDS = {2: "<end>", 7: "so", 70: "'"}


@pytest.mark.parametrize(
    ("ids", "told"),
    [([7], "token 7"), ([7, 2], "tokens 2, 7"), (range(4), "tokens 0, 1, 2, 3"), (range(5), "tokens 0, 1, 2, 3, ...")],
)
def test_tokens_are_named_by_their_ids(ids, told):
    assert tokens_named(ids) == told


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("2 spans stop before token 7, which is no label", "2 spans stop before token 7 'so', which is no label"),
        ("no end (tokens 2, 7) is a target", "no end (tokens 2 '<end>', 7 'so') is a target"),
        ("row 2: label 7 at token 70, before token 2", "row 2: label 7 'so' at token 70 ''', before token 2 '<end>'"),
        ("7 labels of 2 tokens, 7 rows", "7 labels of 2 tokens, 7 rows"),
    ],
)
def test_a_word_stands_behind_every_token_that_is_named_and_once(sentence, told):
    assert tokens_spelled(sentence, WORDS.__getitem__) == told
    assert tokens_spelled(told, WORDS.__getitem__) == told


def test_words_agree_with_their_number():
    assert agreeing(1, "it [is|are] [its|their] own") == "it is its own"
    assert agreeing(2, "rows [is|are] {kept}[0]") == "rows are {kept}[0]"


def test_things_are_counted():
    assert [counted(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [counted(n, "loss", "losses") for n in (1, 2)] == ["1 loss", "2 losses"]
