"""Ranks whose weights began alike must stay alike: LA603 where no gradient was reduced."""

import copy

import pytest
import torch
from torch import nn

from probes.ranks.drift import drift, imprint, still_alike

SIZE = 1500  # more than one block of columns, and a rest


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, SIZE), nn.Linear(SIZE, 2))


def ran(*models, own=(), rate=1e-3, reduced=False):
    """What each rank hands in: before and after one step on data of its own, or on the mean of all gradients."""
    payloads = [{"rank": rank, "imprints": [imprint(one)]} for rank, one in enumerate(models)]
    for rank, one in enumerate(models):
        torch.manual_seed(10 + rank)
        one(torch.randn(4, 3)).pow(2).mean().backward()
    grads = [[p.grad for p in one.parameters()] for one in models]
    names = [name for name, _ in models[0].named_parameters()]
    for one, mine in zip(models, grads, strict=True):
        for number, (name, parameter) in enumerate(zip(names, one.parameters(), strict=True)):
            mean = sum(other[number] for other in grads) / len(grads)
            used = mean if reduced and name not in own else mine[number]
            parameter.data -= rate * used
    for payload, one in zip(payloads, models, strict=True):
        payload["imprints"].append(imprint(one))
    return payloads


def test_gradients_that_were_not_reduced():
    (found,) = drift(ran(model(), model()))
    assert (found.code, found.stream, found.severity, found.count) == ("LA603", "all", "error", 4)
    assert "4 of 4 trained parameters, first 0.weight, were the same on ranks 0 and 1" in found.message


@pytest.mark.parametrize("rate", [1e-1, 1e-6])
def test_gradients_that_were_reduced(rate):
    payloads = ran(model(), model(), model(), rate=rate, reduced=True)
    assert drift(payloads) == []
    assert still_alike(payloads)


def test_kernels_that_round_otherwise_are_no_drift():
    payloads = ran(model(), model(), reduced=True)
    after = payloads[1]["imprints"][-1]
    after["0.weight"] += 1e-3 * abs(after["0.weight"] - payloads[1]["imprints"][0]["0.weight"])
    assert drift(payloads) == []


def test_parameters_of_each_rank_alone_are_not_compared():
    payloads = ran(model(0), model(1))
    assert drift(payloads) == []
    assert not still_alike(payloads), "there was nothing to compare"


def test_parameters_that_part_while_others_stay_together_are_a_warning():
    (found,) = drift(ran(model(), model(), own=("1.weight",), reduced=True))
    assert (found.severity, found.count) == ("warning", 1)
    assert "parameters of each rank alone" in found.message


@pytest.mark.parametrize("imprints", [[], [{"weight": 1.0}]])
def test_without_a_second_look_nothing_is_said(imprints):
    payloads = [{"rank": 0, "imprints": imprints}, {"rank": 1, "imprints": imprints}]
    assert drift(payloads) == []
    assert not still_alike(payloads)


def test_an_imprint_tells_a_swap_of_two_weights_and_leaves_the_model_alone():
    one = model()
    before, state = imprint(one), copy.deepcopy(one.state_dict())
    assert all(torch.equal(state[name], value) for name, value in one.state_dict().items())
    with torch.no_grad():
        one[1].weight[0, [3, 4]] = one[1].weight[0, [4, 3]]
    after = imprint(one)
    assert {name for name in before if before[name] != after[name]} == {"1.weight"}


def test_frozen_and_integer_parameters_have_no_imprint():
    one = model()
    one[0].requires_grad_(False)
    one.register_parameter("packed", nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False))
    assert set(imprint(one)) == {"1.weight", "1.bias"}
