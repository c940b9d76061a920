"""Declared streams: one reader for Python and TOML, and messages that name the key and the nearest right one."""

import pytest
import torch

from alignment import Convention, InputError
from probes import UsageError
from probes.models.declaration import Declaration, HeadPlace
from probes.models.place import Place, read_place
from probes.models.stream_entries import read_streams
from probes.models.streams_file import load_streams, streams_toml

TOML = """
[text]
head = "text_head"
ids = "text"
mask = "loss_mask"
padding = 0

["audio[{k}]"]
head = "heads.{k}"
ids = "codes[:, {k}]"
labels = "targets[:, {k}]"
ends = [61]
fillers = [60]

["mtp[{k}]"]
head = ["mtp.{k}", "output: extra[..., {k}, :]"]
ids = "text"
ahead = 2
ahead_step = 1
call = 1
objective = "masked"
body = "layers.{k}"
convention = "pre-shifted"

["audio[{k+1}]"]
head = "predictor.{k}"
ids = "more[..., {k+1}]"
documents = "pieces"
vocabulary = 64
delay = [1, 2]
count = 2
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "streams.toml"
    path.write_text(TOML)
    return str(path)


def test_a_file_and_a_mapping_with_the_same_keys_declare_the_same_streams(file):
    mapping = {
        "text": {"head": "text_head", "ids": "text", "mask": "loss_mask", "padding": 0},
        "audio[{k}]": {
            "head": "heads.{k}",
            "ids": "codes[:, {k}]",
            "labels": "targets[:, {k}]",
            "ends": [61],
            "fillers": 60,
        },
        "mtp[{k}]": {
            "head": ("mtp.{k}", "output: extra[..., {k}, :]"),
            "ids": "text",
            "ahead": 2,
            "ahead_step": 1,
            "call": 1,
            "objective": "masked",
            "body": "layers.{k}",
            "convention": Convention.PRE_SHIFTED,
        },
        "audio[{k+1}]": {
            "head": "predictor.{k}",
            "ids": "more[..., {k+1}]",
            "documents": "pieces",
            "vocabulary": 64,
            "delay": (1, 2),
            "count": 2,
        },
    }
    assert load_streams(file) == read_streams(mapping)


def test_what_is_written_is_read_again_as_the_same(file, tmp_path):
    declared = load_streams(file)
    again = tmp_path / "again.toml"
    again.write_text(streams_toml(declared, [["13 rows"], [], ["offset +1"], []]))
    assert load_streams(str(again)) == declared
    assert "# 13 rows" in again.read_text()


def test_the_placeholder_is_bound_in_every_key_and_counts_how_far_ahead(file):
    audio, mtp = load_streams(file)[1].bound(3), load_streams(file)[2].bound(2)
    assert (audio.name, audio.head, audio.ids) == ("audio[3]", (HeadPlace("heads.3"),), Place("codes", "[:, 3]"))
    assert (mtp.name, mtp.ahead, mtp.body) == ("mtp[2]", 4, "layers.2")
    assert str(mtp.head[1]) == "output: extra[..., 2, :]"
    further = load_streams(file)[3].bound(1)
    assert (further.name, further.head[0].path, str(further.ids)) == ("audio[2]", "predictor.1", "more[..., 2]")
    assert further.delay == (2,)


def test_functions_of_the_batch_are_taken_in_python():
    def ids(batch):
        return batch["x"]

    assert read_streams({"text": {"head": "h", "ids": ids}})[0] == Declaration("text", (HeadPlace("h"),), ids)


@pytest.mark.parametrize(
    ("index", "wanted"),
    [
        ("codes", (2, 4, 5)),
        ("codes[0]", (4, 5)),
        ("codes[:, 1]", (2, 5)),
        ("codes[..., -1]", (2, 4)),
        ("codes[:, 1:3][..., ::2]", (2, 2, 3)),
        ("codes[ : , -2 ]", (2, 5)),
    ],
)
def test_an_index_is_the_one_of_torch(index, wanted):
    assert read_place(index).of({"codes": torch.zeros(2, 4, 5)}).shape == wanted


def test_an_index_of_a_list_takes_its_tensor():
    assert read_place("codes[1][:, 0]").of({"codes": [torch.zeros(2, 3), torch.ones(2, 3)]}).tolist() == [1, 1]


@pytest.mark.parametrize(
    "index", ["codes[mask]", "codes[__import__('os')]", "codes[1", "codes[1]x", "codes[,1]", "[0]"]
)
def test_nothing_but_integers_slices_and_the_placeholder_is_an_index(index):
    with pytest.raises(InputError):
        read_place(index)


def test_a_key_that_the_batch_lacks_gets_the_nearest_and_what_the_batch_holds():
    with pytest.raises(InputError, match=r"no code; did you mean codes\? It holds codes \[2, 3\]"):
        read_place("code[:, 0]").of({"codes": torch.zeros(2, 3)})


def test_an_index_that_does_not_fit_says_the_shape():
    with pytest.raises(InputError, match=r"codes\[:, 7\] does not fit codes of shape \[2, 3\]"):
        read_place("codes[:, 7]").of({"codes": torch.zeros(2, 3)})


HEAD = {"head": "h", "ids": "x"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["text"], "must map the name of each stream"),
        ({}, "declares no stream"),
        ({"text": "h"}, r"\[text\] must be a mapping with head and ids"),
        ({"text": {"head": "h"}}, r"\[text\] has no ids"),
        ({"text": {"ids": "x"}}, r"\[text\] has no head"),
        ({"text": {**HEAD, "lables": "y"}}, r"\[text\] has no key 'lables'; did you mean labels\?"),
        ({"text": {**HEAD, "zzz": "y"}}, "Keys are head, ids"),
        ({"text": {**HEAD, "head": 3}}, r"\[text\] head must be a module"),
        ({"text": {**HEAD, "head": "output:"}}, "names no module, parameter or output"),
        ({"text": {**HEAD, "ids": 3}}, r"\[text\] ids must be a key of the batch"),
        ({"text": {**HEAD, "ids": "x[y]"}}, r"ids = 'x\[y\]': 'y' is no part of an index"),
        ({"text": {**HEAD, "ends": "2"}}, "ends must be an id or a list of ids"),
        ({"text": {**HEAD, "ends": [True]}}, "ends must be an id"),
        ({"text": {**HEAD, "ahead": 0}}, "ahead must be a whole number of at least 1"),
        ({"text": {**HEAD, "call": -1}}, "call must be a whole number of at least 0"),
        ({"text": {**HEAD, "objective": "mask"}}, "objective must be 'next' or 'masked'"),
        ({"text": {**HEAD, "convention": "shifted"}}, "convention must be 'position-aligned' or 'pre-shifted'"),
        ({"text": {**HEAD, "body": ""}}, "body must be the path of a module"),
        ({"text": {**HEAD, "ids": "x[:, {k}]"}}, r"uses \{k\}, which its name lacks: call it text\[\{k\}\]"),
        ({"text[{k}]": HEAD}, r"has \{k\} in its name alone"),
        ({"text": {**HEAD, "labels": "y", "mask": "m"}}, "labels and a mask"),
    ],
)
def test_what_is_wrong_is_said_with_its_stream_and_key(given, message):
    with pytest.raises(UsageError, match=message):
        read_streams(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read --streams .*: no such file"),
        ("[audio[0]]\n", "no TOML"),
        ("x = 3\n", r"\[x\] must be a mapping"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    path = tmp_path / "s.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_streams(str(path))
    assert str(path) in str(caught.value)


def test_a_function_cannot_be_written():
    with pytest.raises(UsageError, match=r"\[text\] ids is a function of the batch"):
        streams_toml(read_streams({"text": {"head": "h", "ids": lambda batch: batch["x"]}}))
