"""A watched forward is run again with other inputs, and the training does not notice."""

import pytest
import torch
from live_runs import batches, llama, loop, watched
from torch import nn


def own(model, batch):
    return model(**batch).loss


def sees_next(_module, _args, output):
    return output + 0.1 * output.roll(-1, dims=1)


@pytest.mark.parametrize("leak", [False, True])
def test_rows_that_see_what_they_are_trained_on_are_named_in_a_run(leak):
    model = llama()
    if leak:
        model.model.norm.register_forward_hook(sees_next)
    report, code = watched(lambda: loop(model, own, batches(4)))
    assert ([f.code for f in report.findings], code) == (["LA401"] * leak, int(leak))
    assert report.check("causality").status == ("fail" if leak else "pass")
    assert report.causality["cuts"]


def test_training_goes_on_bit_for_bit():
    def trained():
        torch.manual_seed(0)
        model = llama()
        model.model.norm.register_module("drop", nn.Dropout(0.2))
        model.model.norm.register_forward_hook(lambda norm, _args, output: norm.drop(output))
        model.train()
        loop(model, own, batches(4))
        return [value.clone() for value in model.state_dict().values()], torch.rand(1)

    alone, drawn = trained()
    found = []
    report, _ = watched(lambda: found.append(trained()))
    assert report.check("causality").status == "pass"
    assert all(torch.equal(one, other) for one, other in zip(alone, found[0][0], strict=True))
    assert torch.equal(drawn, found[0][1])
