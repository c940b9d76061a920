"""What a template writes around messages, learnt once: the places that the template itself says, whatever is said."""

import pytest
from chat_templates import FAMILIES, conversation, tokenizer_of

from probes.roles.frames import MOST, Learnt
from probes.roles.templates import spans

#: What templates strip, split or take for a part of their own.
SAID = (
    "Yes.",
    " two\n",
    "",
    " ",
    "<think>\n",
    "</think>",
    "<|im_end|>",
    "\n\nso",
    "a [INST] b",
    "{{ 7 }}",
    "🙂",
    "Yes.Yes.",
)


def plain(family, said):
    """A conversation of texts alone, in which every message says this."""
    return [{"role": one["role"], "content": said} for one in conversation(family) if one["content"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_places_are_those_that_the_template_says(family):
    tokenizer = tokenizer_of(family)
    learnt = Learnt(tokenizer)
    for said in SAID:
        assert learnt.spans(plain(family, said)) == spans(tokenizer, plain(family, said)), said


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "command", "phi"])
def test_a_template_of_plain_frames_is_asked_once_a_conversation(family, monkeypatch):
    tokenizer = tokenizer_of(family)
    learnt, asked = Learnt(tokenizer), []
    learnt.spans(plain(family, "Yes."))
    monkeypatch.setattr("probes.roles.templates.render", lambda *given, **options: asked.append(1))
    text, found = learnt.spans(plain(family, "No."))
    assert [text[one.start : one.end] for one in found] == ["No."] * len(found)
    assert not asked


def test_what_holds_more_than_text_is_asked_as_before():
    tokenizer = tokenizer_of("tools")
    called = conversation("tools")
    assert Learnt(tokenizer).spans(called, [{"name": "add"}]) == spans(tokenizer, called, [{"name": "add"}])
    assert Learnt(tokenizer).spans(called) == spans(tokenizer, called)


def test_no_more_shapes_are_kept_than_a_few():
    tokenizer = tokenizer_of("chatml")
    learnt = Learnt(tokenizer)
    learnt._frames = {(str(number),): None for number in range(MOST)}
    assert learnt.spans(plain("chatml", "Yes.")) == spans(tokenizer, plain("chatml", "Yes."))
    assert len(learnt._frames) == MOST
