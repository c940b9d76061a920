"""A head that masks ids which are none (a padded vocabulary, -inf) is right; a target that it masks is not."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB as LIVE_VOCAB
from live_runs import batches, llama, loop, watched
from lm_tiny import VOCAB, tiny_model
from torch import nn

from probes import check_loss
from probes.batches.plain_batch import barcoded_text
from probes.checks.lora import Lora, wrapped
from probes.checks.preflight import Plan, preflight
from probes.models import adapter_for

#: Ids from here on are none.
REAL = 80


class Masking(nn.Linear):
    """A head that masks by itself what its bias does not."""

    def forward(self, rows):
        return super().forward(rows).index_fill(-1, torch.arange(REAL, self.out_features), -torch.inf)


def by_bias(model, first=REAL, value=-torch.inf):
    head = model.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()[first:] = value
    head.bias.requires_grad_(False)
    return model


def by_itself(model):
    model.lm_head = Masking(model.config.hidden_size, VOCAB)
    return model


def by_lora(model):
    by_bias(model)
    return wrapped(model, adapter_for(model), Lora(r=2, target=("lm_head", "q_proj")), 0)


def batch(beyond=0):
    """Ids that are any, or some of which are masked."""
    ids = torch.randperm(REAL - 4, generator=torch.Generator().manual_seed(0))[:48].reshape(2, 24) + 3
    ids[0, 20 : 20 + beyond] = torch.arange(REAL, REAL + beyond)
    return {"input_ids": ids, "labels": ids.clone()}


def own_loss(model, batch):
    return model(**batch).loss


def in_place(model, batch):
    """Masked where the head does not, as models do that mask after it."""
    logits = model(input_ids=batch["input_ids"]).logits
    logits[..., REAL:] = -torch.inf
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def copies(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())


def codes(report):
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("real", [False, True], ids=["noise", "real logits"])
@pytest.mark.parametrize("masked", [by_bias, by_itself])
def test_masked_ids_that_nothing_is_trained_on_are_silent(masked, real):
    model = masked(tiny_model("LlamaForCausalLM"))
    report = check_loss(model, batch(), own_loss, real_logits=real)
    assert (report.verdict, codes(report)) == ("pass", [])
    assert report.streams["text"]["offsets"] == {"1": 46}
    assert codes(check_loss(model, batch(), copies, real_logits=real)) == ["LA102"]


@pytest.mark.parametrize("masked", [by_bias, by_itself])
def test_a_target_that_is_masked_is_named(masked):
    report = check_loss(masked(tiny_model("LlamaForCausalLM")), batch(beyond=3), own_loss)
    assert codes(report) == ["LA501"]
    said = "the loss is inf: the text head masks the targets of 3 rows with a logit of -inf (tokens 80, 81, 82)"
    assert report.findings[0].message == said


@pytest.mark.parametrize("first", [REAL, 0], ids=["some", "all"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_any_other_logit_that_is_not_finite_is_found(first, value):
    model = by_bias(tiny_model("LlamaForCausalLM"), first, value)
    right = first and value == -torch.inf
    assert codes(check_loss(model, batch(), own_loss)) == ([] if right else ["LA501"])


@pytest.mark.parametrize("masked", [by_bias, by_lora])
def test_preflight_passes_on_ids_that_are_any(masked):
    model = masked(tiny_model("LlamaForCausalLM"))
    adapter = adapter_for(model)
    drawn = barcoded_text(adapter, model, 2, 24, 0, "position-aligned")
    report = preflight(Plan(model, adapter, drawn))
    assert (report.verdict, codes(report)) == ("pass", [])
    ran = {check.id: check.status for check in report.checks}
    needed = {"text-loss", "training-step", "causality", "decode", *(["peft"] if masked is by_lora else [])}
    assert {name: ran[name] for name in needed} == dict.fromkeys(needed, "pass")


def test_preflight_tells_masked_targets():
    model = by_bias(tiny_model("LlamaForCausalLM"))
    report = preflight(Plan(model, adapter_for(model), batch(beyond=1)))
    assert codes(report) == ["LA501"]


def test_logits_that_the_loss_masks_in_place_are_silent():
    model = tiny_model("LlamaForCausalLM")
    report = check_loss(model, batch(), in_place)
    assert (report.verdict, codes(report)) == ("pass", [])
    assert report.streams["text"]["weight_sum"] == pytest.approx(1)
    assert codes(check_loss(model, batch(beyond=1), in_place)) == ["LA501"]


@pytest.mark.parametrize(("first", "found"), [(LIVE_VOCAB - 16, []), (LIVE_VOCAB // 2, ["LA501"])])
def test_a_run_is_watched_alike(first, found):
    data = [{key: value.clamp(max=LIVE_VOCAB - 17) for key, value in one.items()} for one in batches(2)]
    report, code = watched(lambda: loop(by_bias(llama(), first), own_loss, data))
    assert (codes(report), code) == (found, int(bool(found)))
