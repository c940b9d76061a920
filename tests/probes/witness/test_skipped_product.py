"""The head's product is left out where nobody sees it, and only there."""

import pytest
import torch
from lm_tiny import VOCAB, tiny_model
from torch import nn

from probes import check_loss
from probes.models.modules import is_linear_alone
from probes.witness.skipped_product import SkippedProduct


class OwnLinear(nn.Linear):
    """A head that may compute anything."""


@pytest.fixture
def model():
    return tiny_model("LlamaForCausalLM")


@pytest.fixture
def batch():
    ids = torch.randperm(VOCAB - 3)[:48].reshape(2, 24) + 3
    return {"input_ids": ids, "labels": ids.clone()}


def loss(model, batch):
    return model(**batch).loss


def products(model, run):
    """How many rows the head multiplied with its weight, and what ``run`` returned."""
    rows, linear = [], torch.nn.functional.linear

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is linear and args[1] is model.lm_head.weight:
                rows.append(args[0].shape[:-1].numel())
            return func(*args, **(kwargs or {}))

    with Count():
        found = run()
    return sum(rows), found


def own_class(model):
    model.lm_head.__class__ = OwnLinear


def hooked(model):
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)


def patched(model):
    model.lm_head.forward = model.lm_head.forward


def test_the_product_of_a_linear_head_is_left_out(model, batch):
    rows, report = products(model, lambda: check_loss(model, batch, loss, replay=False))
    assert (rows, report.verdict) == (0, "pass")
    assert "forward" not in vars(model.lm_head)
    assert products(model, lambda: loss(model, batch))[0] == 48


@pytest.mark.parametrize("change", [own_class, hooked, patched])
def test_any_other_head_runs(model, batch, change):
    change(model)
    assert not is_linear_alone(model.lm_head)
    rows, report = products(model, lambda: check_loss(model, batch, loss, replay=False))
    assert (rows, report.verdict) == (48, "pass")


def test_real_logits_are_computed(model, batch):
    assert products(model, lambda: check_loss(model, batch, loss, real_logits=True, replay=False))[0] == 48


def test_a_reference_without_gradients_sees_its_own_logits(model, batch):
    seen = []

    def with_reference(model, batch):
        with torch.no_grad():
            seen.append(model(**batch).logits)
        return loss(model, batch)

    rows, report = products(model, lambda: check_loss(model, batch, with_reference, replay=False))
    assert (rows, report.verdict) == (48, "pass")
    assert bool(seen[0].any())


def test_a_direct_call_of_the_heads_forward_is_answered(model, batch):
    def direct(model, batch):
        out = model(**batch)
        assert bool(model.lm_head.forward(torch.ones(1, model.config.hidden_size)).any())
        return out.loss

    assert check_loss(model, batch, direct).verdict == "pass"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_is_not_finite_is_found(model, batch, part, value):
    head = model.lm_head = nn.Linear(model.config.hidden_size, VOCAB)
    with torch.no_grad():
        getattr(head, part).reshape(-1)[5] = value
    assert [f.code for f in check_loss(model, batch, loss).findings] == ["LA501"]


def test_logits_that_overflow_are_found():
    """The bound does not exclude it, so that the product is computed; smaller weights are let pass."""
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    batch["labels"] = batch["input_ids"].clone()
    model = tiny_model("LlamaForCausalLM").bfloat16()
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    assert [f.code for f in check_loss(model, batch, loss).findings] == ["LA501"]
    with torch.no_grad():
        model.lm_head.weight.fill_(1e34)
    assert check_loss(model, batch, loss).verdict == "pass"


def test_autocast_gives_the_dtype(model):
    product = SkippedProduct(model.lm_head, lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.lm_head(torch.ones(2, 3, model.config.hidden_size))
    product.remove()
    assert out is product.placeholder
    assert (out.shape, out.dtype) == ((2, 3, VOCAB), torch.bfloat16)
    assert out.untyped_storage().nbytes() <= 16


def own_hook(model):
    """A hook that changes what the head reads, as one that scales it does."""
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


def lora(model):
    import peft

    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["lm_head"]), model)


def plain(model):
    pass


@pytest.mark.parametrize("grown", [1, 1e20])
@pytest.mark.parametrize("change", [plain, own_class, hooked, own_hook, patched, lora])
def test_rows_that_are_too_long_for_their_head_are_found(model, batch, change, grown):
    with torch.no_grad():  # each finite by itself
        model.model.norm.weight.mul_(grown)
        model.lm_head.weight.mul_(grown)
    change(model)
    report = check_loss(model, batch, loss)
    assert [finding.code for finding in report.findings] == (["LA501"] if grown > 1 else [])


def test_a_head_that_is_called_on_parts_reads_its_own_rows(model, batch):
    """One product in all, of the model's own rows, wherever the loss cuts, turns and scales them."""
    change, seen = hooked, []
    change(model)
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].detach().flatten(0, -2)))

    def in_parts(model, batch):
        hidden = model.model(batch["input_ids"]).last_hidden_state.flatten(0, 1) * 0.25
        targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100).flatten()
        parts = zip(hidden.flip(0).split(7), targets.flip(0).split(7), strict=True)
        return sum(nn.functional.cross_entropy(model.lm_head(h), t, reduction="sum") for h, t in parts) / 46

    rows, report = products(model, lambda: check_loss(model, batch, in_parts, replay=False))
    assert (rows, report.verdict) == (48, "pass")
    with torch.no_grad():
        hidden = model.model(batch["input_ids"]).last_hidden_state.flatten(0, 1) * 0.25
    assert torch.equal(torch.cat(seen).flip(0), hidden)
