"""Ids behind embeddings that a script has added up, and cut: told by the graph that they were made in."""

import pytest
import torch
from live_runs import loop, watched
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes.models.embedded import embedded_ids

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def talker():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=96, **SIZES))


@pytest.fixture
def words():
    return nn.Embedding(400, 32)


def drawn(high, seed, *shape):
    return torch.randint(0, high, shape or (4, 24), generator=torch.Generator().manual_seed(seed))


def test_ids_of_the_models_own_table_are_found_in_a_sum(talker, words):
    codes, text = drawn(96, 1), drawn(400, 2)
    made = words(text) + 0.5 * talker.get_input_embeddings()(codes)
    assert torch.equal(embedded_ids(talker, made), codes)
    assert torch.equal(embedded_ids(talker, made[:, 2:-1]), codes[:, 2:-1])
    assert torch.equal(embedded_ids(talker, made[1:, ::2]), codes[1:, ::2])


def test_two_lookups_in_one_table_are_not_guessed_between(talker):
    table = talker.get_input_embeddings()
    assert embedded_ids(talker, table(drawn(96, 1)) + table(drawn(96, 2))) is None


def test_embeddings_of_another_table_have_no_ids(talker, words):
    assert embedded_ids(talker, words(drawn(400, 2))) is None


@pytest.mark.parametrize(("cut", "code"), [(0, set()), (1, {"LA103"})], ids=["right", "shifted twice"])
def test_a_script_that_adds_embeddings_is_read(talker, words, cut, code):
    def loss(model, batch):
        made = words(batch["text"]) + model.get_input_embeddings()(batch["codes"])
        labels = batch["codes"].masked_fill(torch.arange(24) < 6, -100)
        return model(inputs_embeds=made[:, : 24 - cut], labels=labels[:, cut:]).loss

    def codes(seed):  # each once: the run has no barcode
        return torch.randperm(96, generator=torch.Generator().manual_seed(seed)).view(4, 24)

    data = [{"text": drawn(400, seed), "codes": codes(seed)} for seed in range(3)]
    optimizer = torch.optim.SGD([*talker.parameters(), *words.parameters()], 0.1)
    report, _ = watched(lambda: loop(talker, loss, data, optimizer=optimizer))
    assert {f.code for f in report.findings if f.is_error} == code
    assert report.streams["text"]["supervised"]
