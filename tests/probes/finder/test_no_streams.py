"""Heads that predict no tokens: classes of a text, of each token, a reward, the ends of a span. Notes, never streams.

Routers, attention scores and values beside a language model stand in test_discover.py, and in the jury.
"""

import pytest
import torch
import transformers as tf
from finder_models import own
from lm_tiny import tiny_model

from probes import discover

#: How many scores a row of each head has.
TASKS = {"SequenceClassification": 5, "TokenClassification": 5, "QuestionAnswering": 2, "Reward": 1}
#: What these classes of a family are built like.
LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
QUICK = ("LlamaForSequenceClassification", "GPT2ForTokenClassification", "BertForQuestionAnswering", "Qwen2ForReward")
FAMILIES = (
    "Albert Bart Bert BigBird Bloom Ctrl Deberta DistilBert Electra Ernie Falcon Gemma Gemma2 GPT2 GPTNeo GPTNeoX GPTJ "
    "Granite Llama MPNet MBart Mistral Mixtral Mpt OPT Persimmon Phi Phi3 Qwen2 Qwen3 Roberta StableLm Starcoder2 T5 "
    "XLMRoberta"
)
IDS = torch.randint(3, 96, (2, 24), generator=torch.Generator().manual_seed(3))
IDS[:, -1] = 2  # what some classify the text by


def every():
    """Names of the classes that transformers has; a reward is a classifier of one class."""
    for family in FAMILIES.split():
        for task in TASKS:
            if hasattr(tf, f"{family}For{task.replace('Reward', 'SequenceClassification')}"):
                yield f"{family}For{task}"


def build(name):
    family, _, task = name.rpartition("For")
    language = next(f"{family}{kind}" for kind in LANGUAGE if hasattr(tf, f"{family}{kind}"))
    config = tiny_model(language).config
    config.num_labels, config.pad_token_id = TASKS[task], 0
    torch.manual_seed(0)
    return getattr(tf, f"{family}For{task.replace('Reward', 'SequenceClassification')}")(config).eval()


def batch(task):
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    more = {
        "SequenceClassification": {"labels": torch.tensor([1, 4])},
        "TokenClassification": {"labels": IDS % 5},
        "QuestionAnswering": {"start_positions": torch.tensor([3, 7]), "end_positions": torch.tensor([9, 12])},
        "Reward": {"labels": torch.tensor([0.5, -1.0])},
    }
    return given | more[task]


def look(name):
    return discover(build(name), batch(name.rpartition("For")[2]), own)


def look_if_built(name):
    """None for a class that this version cannot build from the configuration of its language model."""
    try:
        model = build(name)
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        return None
    return discover(model, batch(name.rpartition("For")[2]), own)


@pytest.mark.parametrize("name", QUICK)
def test_a_head_of_no_tokens_is_a_note(name):
    found = look(name)
    assert not found.found
    assert not found.unclear
    assert found.notes


@pytest.mark.deep
def test_of_thirty_models_none_has_a_stream():
    seen = {name: found for name in every() if (found := look_if_built(name)) is not None}
    assert len(seen) >= 30
    assert not [name for name, found in seen.items() if found.found or found.unclear or not found.notes]
