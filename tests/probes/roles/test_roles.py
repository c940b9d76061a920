"""Twelve templates: the role of every token, written out or read back; right labels silent, planted faults named."""

import pytest
import torch
from chat_templates import FAMILIES, conversation, tokenizer_of

from alignment import text_stream
from probes.errors import UsageError
from probes.roles import Role, Writer, conversation_of, grammar_of, judge_roles, roles_of, wanted

VOCAB = 320
ANSWER = (Role.ASSISTANT, Role.REASONING, Role.END)


def written(family, **options):
    return Writer(tokenizer_of(family)).rendered(conversation_of({"messages": conversation(family, **options)}))


def text_of(family, *texts):
    """The texts side by side as one stream, padded, with the tokenizer's padding behind them."""
    width = max(len(one.ids) for one in texts)
    ids = torch.full((len(texts), width), tokenizer_of(family).pad_token_id)
    for row, one in enumerate(texts):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
    return text_stream(ids, VOCAB, mask=(ids != tokenizer_of(family).pad_token_id).long())


def said(family, roles, stream, role):
    return tokenizer_of(family).decode(stream.ids[roles.role == role].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_has_the_role_of_who_says_it(family):
    one = written(family)
    stream = text_of(family, one)
    roles = roles_of(stream, [one])
    for role, who in ((Role.USER, "user"), (Role.ASSISTANT, "assistant"), (Role.TOOL, "tool")):
        texts = [message["content"] for message in conversation(family) if message["role"] == who]
        assert all(text in said(family, roles, stream, role) for text in texts)
    assert "What" not in said(family, roles, stream, Role.ASSISTANT)
    answers = sum(message["role"] == "assistant" for message in conversation(family))
    assert int(roles.turn.max()) + 1 == answers
    ends = torch.unique(roles.turn[roles.role == Role.END])
    assert len(ends) == answers - (family == "glm")  # nothing follows its last answer


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_read_back_from_ids_are_those_that_were_written(family):
    texts = [written(family, seed=seed) for seed in (0, 1)]
    stream = text_of(family, *texts)
    told, read = roles_of(stream, texts), roles_of(stream, (), grammar_of(tokenizer_of(family)))
    for role in ANSWER:
        assert torch.equal(told.role == role, read.role == role)
    assert torch.equal(told.turn[told.of(*ANSWER)], read.turn[told.of(*ANSWER)])


def test_reasoning_and_calls_of_tools_belong_to_the_answer():
    one = written("qwen")
    assert "0 plus 1" in said("qwen", roles_of(text_of("qwen", one), [one]), text_of("qwen", one), Role.REASONING)
    one = written("tools")
    assert "add" in said("tools", roles_of(text_of("tools", one), [one]), text_of("tools", one), Role.ASSISTANT)


def labels_and_roles(family):
    texts = [written(family, seed=seed, answers=3) for seed in (0, 1)]
    stream = text_of(family, *texts)
    return stream, roles_of(stream, texts), roles_of(stream, (), grammar_of(tokenizer_of(family)))


def codes(judged):
    return [found.code for found in judged.findings]


@pytest.mark.parametrize("family", FAMILIES)
def test_right_labels_are_silent(family):
    stream, *both = labels_and_roles(family)
    for roles in both:
        for train_on in ("assistant", "last", "all"):
            named = wanted(both[0], train_on)
            assert codes(judge_roles(stream, named, roles, train_on)) == []
            judged = judge_roles(stream, named, roles)
            assert codes(judged) == []
            assert "undeclared" in judged.notes[0]


def _user(named, roles):
    named |= roles.role == Role.USER


def _header(named, roles):
    before = torch.zeros_like(named)
    before[:-1] = (roles.turn[1:] >= 0) & (roles.turn[:-1] < 0)
    named |= before & (roles.role == Role.HEADER)


def _first(named, roles):
    first = roles.turn >= 0
    first[1:] &= roles.turn[:-1] < 0
    named &= ~first


def _ends(named, roles):
    named &= roles.role != Role.END


def _turn(named, roles):
    named &= roles.turn != 1


FAULTS = {
    _user: ("LA208", "user"),
    _header: ("LA208", "header before an answer: the mask begins early"),
    _first: ("LA208", "first tokens of answers: the mask begins late"),
    _ends: ("LA203", "never learns to stop"),
    _turn: ("LA208", "whole answers"),
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__.strip("_"))
@pytest.mark.parametrize("family", FAMILIES)
def test_planted_mask_faults_are_named(family, plant):
    stream, *both = labels_and_roles(family)
    named = wanted(both[0], "assistant")
    plant(named, both[0])
    code, words = FAULTS[plant]
    for roles in both:
        (found,) = judge_roles(stream, named, roles, "assistant").findings
        assert (found.code, found.severity) == (code, "error")
        assert words in found.message
        undeclared = judge_roles(stream, named, roles).findings
        assert [(one.code, one.is_error) for one in undeclared] == [(code, code == "LA203")]


def test_what_follows_the_first_answer_may_be_trained_whole():
    stream, roles, _ = labels_and_roles("chatml")
    named = (roles.turn >= 0).long().reshape(2, -1).cumsum(1).reshape(-1) > 0
    judged = judge_roles(stream, named & (stream.segment >= 0), roles)
    assert codes(judged) == []
    assert "all but what stands before the first answer" in judged.notes[0]


def test_conversations_packed_into_one_row_are_told_apart():
    texts = [written("chatml", seed=seed) for seed in (0, 1)]
    stream = text_stream(torch.tensor([[*texts[0].ids, *texts[1].ids]]), VOCAB)
    roles = roles_of(stream, texts)
    assert torch.unique(roles.conversation).tolist() == [0, 1]
    last = wanted(roles, "last")
    assert int(last.sum()) == sum(int((torch.tensor(one.turns) == 1).sum()) for one in texts)


def test_a_tokenizer_without_template_says_where_to_put_one():
    tokenizer = tokenizer_of("chatml")
    kept, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        assert grammar_of(tokenizer) is None
        with pytest.raises(UsageError, match=r"chat_template\.jinja beside tokenizer\.json"):
            Writer(tokenizer).rendered(conversation_of({"messages": conversation("chatml")}, "file, line 1"))
    finally:
        tokenizer.chat_template = kept


def test_a_template_that_refuses_says_so_with_the_line():
    with pytest.raises(UsageError, match=r"file, line 3: the chat template refuses .*no system turn"):
        Writer(tokenizer_of("gemma")).rendered(conversation_of({"messages": conversation("chatml")}, "file, line 3"))
