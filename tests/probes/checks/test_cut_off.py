"""Parameters that get no gradient though what is trained depends on them (LA602), by every door."""

import peft
import pytest
import torch
from live_runs import batches, llama, loop, watched
from lm_batches import text_batch
from lm_tiny import tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from probes import check_loss
from probes.checks import cut_off as module


def own_loss(model, batch):
    return model(**batch, use_cache=False).loss


def with_lora(model, target=("q_proj", "v_proj", "lm_head")):
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=list(target)))


def checkpointed(model, *, grads):
    """Reentrant checkpoints, whose layers hand no gradient on where nothing that they are given needs one."""
    for layer in model.model.layers:
        layer.forward = _behind_checkpoint(layer.forward)
    if grads:
        model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    return model


def _behind_checkpoint(own):
    def forward(hidden, **options):
        if not torch.is_grad_enabled():
            return own(hidden, **options)
        return checkpoint(lambda h: own(h, **options), hidden, use_reentrant=True)

    return forward


def adapted(*, grads):
    return with_lora(checkpointed(llama(), grads=grads))


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_adapters_behind_a_reentrant_checkpoint():
    """The head's own adapter is trained, so the loss falls; those of the layers never are."""
    model, batch = adapted(grads=False), text_batch()
    before = {name: param.clone() for name, param in model.named_parameters()}
    (found,) = check_loss(model, batch, own_loss).findings
    assert (found.code, found.severity, found.count) == ("LA602", "error", 4)
    assert "4 of 6 trainable parameters have no gradient" in found.message
    assert "first base_model.model.model.layers.0.self_attn.q_proj.lora_A" in found.message
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())
    assert all(param.grad is None for param in model.parameters())


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_adapters_behind_a_reentrant_checkpoint_in_a_run():
    model = adapted(grads=False)
    report, code = watched(lambda: loop(model, own_loss, batches(3)))
    (found,) = report.findings
    assert (found.code, found.count, code) == ("LA602", 4, 1)
    alone = adapted(grads=False)
    loop(alone, own_loss, batches(3))
    for name, param in model.named_parameters():
        assert torch.equal(param, dict(alone.named_parameters())[name]), "the run is bit for bit what it is alone"


def test_adapters_that_are_trained_are_silent():
    """A factor of zeros gives the other a gradient of zeros at the first step: that is no missing one."""
    for model in (adapted(grads=True), with_lora(llama())):
        assert check_loss(model, text_batch(), own_loss).verdict == "pass"
    model = adapted(grads=True)
    report, code = watched(lambda: loop(model, own_loss, batches(3)))
    assert (report.findings, code) == ([], 0)


@pytest.mark.parametrize("bias", [True, False], ids=["cut off", "unused"])
def test_whatever_an_optimizer_holds_is_looked_at_in_a_run(bias):
    model = llama()
    model.model.norm.offset = nn.Parameter(torch.zeros(32))
    if bias:
        model.model.norm.register_forward_hook(lambda norm, _, out: out + norm.offset.detach())
    report, code = watched(lambda: loop(model, own_loss, batches(3)))
    if bias:
        assert [(one.code, one.count) for one in report.findings] == [("LA602", 1)]
        assert "first model.norm.offset" in report.findings[0].message
    else:
        assert (report.findings, code) == ([], 0)
        assert any("no trained row depends on them" in note and "model.norm.offset" in note for note in report.notes)


def test_adapters_that_the_batch_does_not_use_are_a_note():
    model = llama()
    model.model.layers[0].extra = nn.ModuleDict({"q_proj": nn.Linear(32, 32)})
    report = check_loss(with_lora(model, ("q_proj",)), text_batch(), own_loss)
    assert (report.verdict, report.findings) == ("pass", [])
    assert any("no trained row depends on them" in note for note in report.notes)


def test_what_is_moved_is_put_back_bit_for_bit_also_when_the_forward_fails():
    model = nn.Linear(3, 3).to(torch.bfloat16)
    before, version = model.weight.detach().clone(), model.weight._version
    moved = module._moved({"weight": model.weight})
    moved.__enter__()
    assert not torch.equal(model.weight, before)
    assert moved.__exit__(RuntimeError, RuntimeError("stop"), None) is not True
    assert torch.equal(model.weight, before)
    assert model.weight._version == version, "a graph that holds it still fits"


def tied(**settings):
    """A copy of the tied embeddings is trained; with the setting, the head's is the same one."""
    model = tiny_model("LlamaForCausalLM", tie_word_embeddings=True)
    return peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], **settings)
    )


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_tied_head_that_stays_behind_its_trained_embeddings():
    (found,) = check_loss(tied(), text_batch(), own_loss).findings
    assert (found.code, found.severity) == ("LA602", "error")
    assert "ties its input embeddings, which are trained, to its output embeddings, which are frozen" in found.message


@pytest.mark.skipif(
    "ensure_weight_tying" not in peft.LoraConfig.__dataclass_fields__, reason="this PEFT cannot tie copies"
)
def test_copies_that_are_tied_again_are_right():
    report = check_loss(tied(ensure_weight_tying=True), text_batch(), own_loss)
    assert (report.verdict, report.findings) == ("pass", [])
