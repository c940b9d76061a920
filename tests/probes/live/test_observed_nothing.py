"""Loops that leave nothing to read, or loop otherwise: what was not seen is said, and never passed."""

import copy
import pickle

import pytest
import torch
from live_runs import VOCAB, batches, llama, mean, watched
from observed_runs import UNTOLD, codes, right, run
from torch import nn

from probes.records.choice import Choice


def test_embeddings_that_are_no_ids_are_said_to_be_unreadable():
    def embedded(model, batch):
        noise = torch.randn(2, 20, 32)
        return mean(model(inputs_embeds=noise).logits, batch["labels"])

    report, code = run(embedded)
    assert (codes(report), code) == (UNTOLD, 0)
    assert "input_ids" in report.findings[0].message


def test_a_run_without_a_backward_says_so_and_keeps_its_exit_code():
    report, code = watched(lambda: llama()(**batches(1)[0]), ended=4)
    assert (codes(report), code) == (UNTOLD, 4)
    assert "no backward pass" in report.findings[0].message


def test_a_run_without_a_model_says_so():
    report, code = watched(lambda: None)
    assert (report.verdict, codes(report), code) == ("incomplete", UNTOLD, 0)
    assert "no model" in report.findings[0].message
    assert "no module was called in this process" in report.findings[0].message


def test_a_loop_without_an_optimizer_is_read_all_the_same():
    def by_hand():
        model = llama()
        for batch in batches(3):
            mean(model(**batch).logits, batch["labels"], 0).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None

    report, code = watched(by_hand)
    assert (codes(report), code) == (["LA102 error"], 1)
    assert any("no optimizer step" in note for note in report.notes)


def with_gradients_asked_for(model, data, shift):
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for batch in data:
        grads = torch.autograd.grad(mean(model(**batch).logits, batch["labels"], shift), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()


def with_steps_in_the_backward(model, data, shift):
    own = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

    def step(parameter):
        own[parameter].step()
        own[parameter].zero_grad()

    for parameter in own:
        parameter.register_post_accumulate_grad_hook(step)
    for batch in data:
        mean(model(**batch).logits, batch["labels"], shift).backward()


def against_a_critic(model, data, shift):
    critic = nn.Linear(VOCAB, 1)
    optimizer, others = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, critic))
    for batch in data:
        logits = model(**batch).logits
        critic(logits.detach().softmax(-1)).mean().backward()
        others.step()
        others.zero_grad()
        (mean(logits, batch["labels"], shift) - 0.01 * critic(logits.softmax(-1)).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102 error"])])
@pytest.mark.parametrize("train", [with_gradients_asked_for, with_steps_in_the_backward, against_a_critic])
def test_loops_of_other_kinds(train, shift, found):
    report, _ = watched(lambda: train(llama(), batches(4), shift))
    assert (report.error, codes(report)) == ("", found)


@pytest.mark.versions
def test_a_compiled_model_is_said_to_hide_its_gradients():
    model = torch.compile(llama(), backend="eager")
    report, code = run(right, model=model)
    assert (codes(report), code) == (UNTOLD, 0)
    assert "compiled" in report.findings[0].message


def test_ignored_findings_do_not_count():
    report, code = run(lambda m, b: mean(m(**b).logits, b["labels"], 0), keep=Choice.of("LA102"))
    assert (code, report.check("pairing-text").status) == (0, "skip")


def test_copies_of_a_watched_model_are_its_own():
    copies = []

    def averaged(model, batch):
        copies.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))])  # noqa: S301
        return right(model, batch)

    run(averaged, batches(2))
    for one in copies:
        assert "forward" not in vars(one) or one.forward.__self__ is one
        with torch.no_grad():
            one.lm_head.weight.zero_()
            assert not one(**batches(1)[0]).logits.any()
