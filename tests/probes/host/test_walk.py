"""A model is gone through as torch does it, and classes are known by name."""

from __future__ import annotations

from torch import nn

from probes.host.walk import (
    buffers_of,
    descends,
    first_parameter,
    has,
    modules_beside,
    modules_of,
    parameters_of,
    unchanged,
)


def test_the_modules_are_those_of_torch_in_its_order() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(
        nn.Sequential(shared, nn.ReLU()), shared, nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Tanh()})
    )
    model.register_module("none", None)
    model[0].register_module("around", model[2])
    assert modules_of(model) == list(model.modules())


def test_a_model_that_holds_itself_ends() -> None:
    model = nn.Sequential(nn.ReLU())
    model.register_module("back", model)
    assert modules_of(model) == list(model.modules())


def test_a_model_is_walked_anew_as_soon_as_it_may_have_changed() -> None:
    model = nn.Sequential(nn.ReLU())
    with unchanged():
        met = modules_of(model)
        with unchanged():
            assert modules_of(model) is met
        assert modules_of(model) is met
    model.append(nn.Linear(2, 2))
    assert modules_of(model) == list(model.modules()) != met
    with unchanged():
        assert modules_of(model) == list(model.modules())
        assert [id(one) for one in parameters_of(model, model[1])] == [id(one) for one in model.parameters()]


def test_the_first_parameter_is_that_of_torch() -> None:
    empty = nn.Sequential(nn.ReLU(), nn.Sequential())
    empty.register_module("back", empty)
    assert first_parameter(empty) is None
    model = nn.Sequential(empty, nn.ModuleDict({"none": nn.BatchNorm1d(2, affine=False), "b": nn.Linear(2, 2)}))
    model.append(nn.Linear(3, 3))
    assert first_parameter(model) is next(model.parameters()) is model[1]["b"].weight


def test_beside_its_parts_a_model_has_what_it_holds_past_them() -> None:
    shared = nn.ReLU()
    body, head = nn.Sequential(nn.Linear(2, 2), shared), nn.Linear(2, 2)
    model = nn.Sequential(body, nn.Sequential(head, shared, nn.Tanh()))
    assert modules_beside(model, (body, head)) == [model, model[1], shared, model[1][2]]
    assert modules_beside(model, ()) == list(model.modules())
    assert modules_beside(model, (model, head)) == []


def test_a_class_is_known_by_its_name_and_where_it_is_from() -> None:
    class Own(nn.Linear):
        pass

    own = Own(2, 2)
    assert descends(type(own), "Linear", "torch")
    assert descends(type(own), "Linear", "torch.nn.modules.linear")
    assert not descends(type(own), "Linear", "tor")
    assert not descends(type(own), "Conv1d", "torch")


def test_buffers_are_those_of_torch_each_once() -> None:
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.Sequential(norm, nn.BatchNorm1d(3)))
    assert [id(one) for one in buffers_of(model)] == [id(one) for one in model.buffers()]


def test_what_a_module_has_is_of_its_own_or_of_its_class() -> None:
    class Own(nn.Linear):
        config = None

    own = Own(2, 2)
    own.told = 1
    assert [has(own, name) for name in ("config", "told", "weight", "other")] == [True, True, False, False]
