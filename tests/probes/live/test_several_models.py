"""Several models in one script, and none that learns tokens: told apart by their optimizers."""

import copy

import pytest
import torch
from live_runs import batches, llama, mean, watched
from torch import nn


def steps(model, called, data):
    """Trains ``model``; ``called(batch)`` runs first in every step, with gradients on."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in data:
        called(batch)
        mean(model(**batch).logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("wrap", [copy.deepcopy, torch.optim.swa_utils.AveragedModel])
def test_a_copy_that_is_called_first_does_not_hide_the_model(wrap):
    model = llama()
    average = wrap(model)
    report, code = watched(lambda: steps(model, lambda batch: average(**batch), batches(2)))
    assert (report.verdict, code, report.findings) == ("pass", 0, [])
    assert report.judged["targets"]


def test_a_teacher_that_is_called_first_with_gradients():
    student, teacher = llama(), llama()
    report, _ = watched(lambda: steps(student, lambda batch: teacher(**batch).logits.detach(), batches(2)))
    assert report.verdict == "pass"


def test_a_second_model_with_an_optimizer_of_its_own_was_not_looked_at():
    first, second = llama(), llama()
    other = torch.optim.SGD(second.parameters(), 0.1)

    def also(batch):
        mean(second(**batch).logits, batch["labels"], 0).backward()
        other.step()
        other.zero_grad()

    report, _ = watched(lambda: steps(first, also, batches(3)))
    (found,) = [one for one in report.findings if one.code == "LA801"]
    assert found.stream == "LlamaForCausalLM"
    assert "trained by an optimizer as well" in found.message


def test_one_optimizer_of_a_model_in_two_groups_and_a_projector_is_one_model():
    model, projector = llama(), nn.Linear(32, 32)
    optimizer = torch.optim.SGD([{"params": model.parameters()}, {"params": projector.parameters()}], 0.1)

    def train():
        for batch in batches(2):
            embeds = projector(model.get_input_embeddings()(batch["input_ids"]))
            logits = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
            mean(logits, batch["labels"]).backward()
            optimizer.step()

    report, _ = watched(train)
    assert "LA801" not in [one.code for one in report.findings]


class Reward(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.body = nn.Embedding(50, 8) if read else nn.Linear(4, 8)
        self.score = nn.Linear(8, 1)

    def forward(self, x):
        return self.score(self.body(x)).squeeze(-1)


@pytest.mark.parametrize(
    ("read", "why"),
    [(False, "it reads none (regression, flow matching)"), (True, "it reads no vocabulary of that size")],
)
def test_a_model_that_learns_no_tokens_is_said_to_by_the_layer_that_learns(read, why):
    model = Reward(read)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train():
        for _ in range(2):
            given = torch.randint(0, 50, (2, 6)) if read else torch.randn(2, 6, 4)
            model(given).pow(2).mean().backward()
            optimizer.step()

    report, code = watched(train)
    (found,) = report.findings
    assert (report.verdict, code, found.code) == ("incomplete", 0, "LA804")
    told = f"no tokens are trained: Reward learns, its last layer with a gradient is score (1 wide), and {why}"
    assert told in found.message
