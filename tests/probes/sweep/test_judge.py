"""A sample judged by its labels: each planted fault is named, in every form of data, and the right ones are silent."""

import copy

import numpy as np
import pytest
import torch
from chat_templates import FAMILIES, conversation, tokenizer_of

from probes import UsageError
from probes.roles import Role, Writer, conversation_of, trained
from probes.sweep import Known, judge, known_of, samples_of

IGNORE = -100


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("chatml")


@pytest.fixture(scope="module")
def known(tokenizer):
    return known_of(tokenizer)


@pytest.fixture(scope="module")
def text(tokenizer):
    return Writer(tokenizer).rendered(conversation_of({"messages": conversation("chatml", seed=1)}))


def kinds(item, known):
    return {kind for sample in samples_of(item, "here", known) for kind in judge(sample, known).kinds}


def tokens(text, edit=lambda labels, places: None, train_on="assistant"):
    """A row of token ids whose labels ``edit`` has changed; it is told where each role stands."""
    labels = [token if on else IGNORE for token, on in zip(text.ids, trained(text, train_on), strict=True)]
    places = {role: [at for at, one in enumerate(text.roles) if one is role] for role in Role}
    edit(labels, places)
    return {"input_ids": list(text.ids), "labels": labels}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_makes_is_silent_in_both_forms(name):
    own = known_of(tokenizer_of(name))
    chat = {"messages": conversation(name, seed=2)}
    assert kinds(chat, own) <= {"open-end"}  # a template without an end leaves its last answer open
    whole = Writer(own.tokenizer).rendered(conversation_of(chat))
    assert kinds(tokens(whole), own) <= {"open-end"}


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_every_choice_is_silent_undeclared_and_declared(train_on, text, tokenizer):
    row = tokens(text, train_on=train_on)
    assert kinds(row, known_of(tokenizer)) == set()
    assert kinds(row, known_of(tokenizer, train_on=train_on)) == set()


def test_another_choice_than_declared_is_named(text, tokenizer):
    assert "wrong-role" in kinds(tokens(text, train_on="all"), known_of(tokenizer, train_on="assistant"))
    assert "wrong-role" in kinds(tokens(text), known_of(tokenizer, train_on="all"))


def first(labels, places):
    labels[places[Role.ASSISTANT][0]] = IGNORE


def last(labels, places):
    labels[places[Role.END][0] - 1] = IGNORE


def ends(labels, places):
    for at in places[Role.END]:
        labels[at] = IGNORE


def nothing(labels, places):
    labels[:] = [IGNORE] * len(labels)


def off(labels, places):
    labels[places[Role.ASSISTANT][0]] += 1


FAULTS = {"begins-late": first, "stops-early": last, "no-end": ends, "no-target": nothing, "labels-elsewhere": off}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_named_alone(kind, text, known):
    assert kinds(tokens(text, FAULTS[kind]), known) == {kind}


@pytest.mark.parametrize(("kind", "role", "step"), [("begins-early", Role.ASSISTANT, -1), ("stops-late", Role.END, 2)])
def test_labels_that_run_into_what_a_template_writes(kind, role, step, text, known):
    row = tokens(text)
    at = text.roles.index(role) + step
    assert text.roles[at] is Role.HEADER
    row["labels"][at] = row["input_ids"][at]
    assert kinds(row, known) == {kind}


def test_a_question_that_is_trained_in_part(text, known):
    row = tokens(text)
    at = text.roles.index(Role.USER)
    row["labels"][at] = row["input_ids"][at]
    assert kinds(row, known) == {"wrong-role"}


def test_labels_handed_a_row_ahead_are_read_as_that(text, known):
    row = tokens(text)
    row["labels"] = [*row["labels"][1:], IGNORE]
    (sample,) = samples_of(row, "here", known)
    told = judge(sample, known)
    assert (told.kinds, told.ahead, told.choice) == ({}, True, "answers")


def test_what_lies_outside_the_vocabulary(text, known):
    row = tokens(text)
    row["input_ids"][3] = known.vocabulary
    assert "out-of-range" in kinds(row, known)


def test_a_begin_written_twice():
    tokenizer = copy.deepcopy(tokenizer_of("llama3"))
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(257)
    own = known_of(tokenizer)
    whole = Writer(own.tokenizer).rendered(conversation_of({"messages": conversation("llama3", seed=1)}))
    row = tokens(whole)
    assert kinds(row, own) == set()
    row = {"input_ids": [row["input_ids"][0], *row["input_ids"]], "labels": [IGNORE, *row["labels"]]}
    assert kinds(row, own) == {"double-begin"}


def test_an_end_that_is_cut_off(text, tokenizer):
    chat = {"messages": conversation("chatml", seed=1)}
    assert kinds(chat, known_of(tokenizer, longest=len(text.ids))) == set()
    assert kinds(chat, known_of(tokenizer, longest=len(text.ids) - 3)) == {"cut-off"}
    row = {key: value[: len(text.ids) - 3] for key, value in tokens(text).items()}
    assert kinds(row, known_of(tokenizer, longest=len(text.ids) - 3)) == {"cut-off"}
    assert kinds(row, known_of(tokenizer)) == {"open-end"}


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}]},
        {"prompt": "a", "completion": ""},
        {"instruction": "a", "output": ""},
    ],
    ids=lambda chat: next(iter(chat)),
)
def test_an_answer_that_says_nothing(chat, known):
    assert "empty-answer" in kinds(chat, known)


# -- forms of batches --------------------------------------------------------------------------------------


FORMS = {
    "tensors": lambda row: {key: torch.tensor([value, value]) for key, value in row.items()},
    "arrays": lambda row: {key: np.array([value, value]) for key, value in row.items()},
    "lists": lambda row: {key: [value, value] for key, value in row.items()},
    "a row of tensors": lambda row: {key: torch.tensor(value) for key, value in row.items()},
    "a list of tensors": lambda row: {key: [torch.tensor(value)] for key, value in row.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_every_form(form, text, known):
    assert kinds(FORMS[form](tokens(text)), known) == set()
    assert kinds(FORMS[form](tokens(text, ends)), known) == {"no-end"}


def test_a_mask_in_place_of_labels(text, known):
    mask = [int(on) for on in trained(text, "assistant")]
    for key in ("completion_mask", "assistant_masks", "loss_mask"):
        assert kinds({"input_ids": list(text.ids), key: mask}, known) == set()
        assert kinds({"input_ids": list(text.ids), key: [0] * len(mask)}, known) == {"no-target"}


def test_padding_is_left_out_and_may_not_be_trained(text, known):
    row = tokens(text)
    padded = {
        "input_ids": torch.tensor([[*row["input_ids"], 5, 5]]),
        "labels": torch.tensor([[*row["labels"], IGNORE, IGNORE]]),
        "attention_mask": torch.tensor([[1] * len(text.ids) + [0, 0]]),
    }
    assert kinds(padded, known) == set()
    padded["labels"][0, -1] = 5
    assert kinds(padded, known) == {"padding-trained"}


def test_packed_documents_are_samples_of_their_own(text, known):
    row, bad = tokens(text), tokens(text, nothing)
    places = [*range(len(text.ids)), *range(len(text.ids))]
    packed = {key: [row[key] + bad[key]] for key in row} | {"position_ids": [places]}
    samples = [*samples_of(packed, "batch 0", known)]
    assert [sample.where for sample in samples] == ["batch 0, row 0, document 0", "batch 0, row 0, document 1"]
    assert [set(judge(sample, known).kinds) for sample in samples] == [set(), {"no-target"}]


@pytest.mark.parametrize(("last", "found"), [(IGNORE, {"no-end"}), (2, set())])
def test_without_roles_runs_of_labels_are_held_to_ends(last, found):
    own = Known(ends=frozenset({2}))
    assert kinds({"input_ids": [5, 6, 7, 2], "labels": [IGNORE, 6, 7, last]}, own) == found
    assert kinds({"input_ids": [5, 6, 7, 2], "labels": [IGNORE, 6, 7, last]}, known_of(None)) == set()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "a"}, "needs a tokenizer"),
        (3, "no input_ids"),
        ({"input_ids": "abc"}, "input_ids is a str"),
        ({"input_ids": [1, None]}, "input_ids holds 'None'"),
        ({"input_ids": [1, 2], "labels": [1]}, "labels has 1 entries, input_ids 2"),
    ],
)
def test_what_has_no_known_form_is_said_in_a_sentence(item, message):
    with pytest.raises(UsageError, match=f"here: .*{message}"):
        list(samples_of(item, "here", known_of(None)))
