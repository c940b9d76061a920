"""Models as they are trained: wrapped, compiled, packed, half precision, and untouched afterwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from lm_batches import text_batch
from lm_losses import NEEDS_FUSED
from lm_tiny import HIDDEN, LENGTH, VOCAB, tiny_model
from torch import nn

from alignment import InputError
from probes import check_loss
from probes.errors import UsageError
from probes.models.causal_lm import CausalLMAdapter
from probes.witness.witness import witness


def watch(model, batch, loss):
    return witness(model, CausalLMAdapter(model), batch, loss)


def codes(seen):
    return tuple(finding.code for finding in seen.findings)


def own_loss(model, batch):
    return model(**batch).loss


def copy_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


# -- wrappers -------------------------------------------------------------------------------------------


def lora(model, **kwargs):
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **kwargs))


def accelerated(model):
    from accelerate import Accelerator

    return Accelerator(cpu=True, mixed_precision="bf16").prepare(model)


def checkpointed(model):
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    return model


def frozen(model):
    return model.requires_grad_(requires_grad=False)


WRAPPERS = {
    "lora": lambda model: lora(model, target_modules=["q_proj", "v_proj"]),
    "lora on everything": lambda model: lora(model, target_modules=["q_proj", "down_proj", "lm_head"]),
    "head saved with lora": lambda model: lora(model, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data parallel": nn.DataParallel,
    "accelerate": accelerated,
    "gradient checkpointing": checkpointed,
    "bfloat16": lambda model: model.bfloat16(),
    "frozen": frozen,
    "eval": lambda model: model.eval(),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_is_seen_through(wrap):
    model = wrap(tiny_model("LlamaForCausalLM"))
    assert codes(watch(model, text_batch(), own_loss)) == ()
    seen = watch(model, text_batch(), copy_loss)
    assert codes(seen) == ("LA102",)
    assert int(seen.actual[0].trained.sum()) == 36


@NEEDS_FUSED
@pytest.mark.parametrize(("shift", "expected"), [(1, ()), (0, ("LA102",))])
def test_a_fused_loss_on_a_frozen_head(shift, expected):
    """Neither the hidden rows nor the head's weight ask for a gradient then."""
    model = lora(tiny_model("LlamaForCausalLM"), target_modules=["q_proj"])

    def loss(model, batch):
        hidden = model.base_model.model.model(batch["input_ids"]).last_hidden_state[:, : LENGTH - shift]
        weight = model.base_model.model.lm_head.weight
        return F.linear_cross_entropy(hidden.flatten(0, 1), weight, batch["labels"][:, shift:].flatten())

    assert codes(watch(model, text_batch(), loss)) == expected


def test_distributed_data_parallel(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(tiny_model("LlamaForCausalLM"))
        assert codes(watch(model, text_batch(), own_loss)) == ()
        assert codes(watch(model, text_batch(), copy_loss)) == ("LA102",)
    finally:
        distributed.destroy_process_group()


def test_a_compiled_loss_on_a_compiled_model():
    model = torch.compile(tiny_model("LlamaForCausalLM"), backend="eager")
    own_loss(model, text_batch()).backward()  # compiled before any hook was there
    model.zero_grad()
    assert codes(watch(model, text_batch(), torch.compile(own_loss, backend="eager"))) == ()
    assert codes(watch(model, text_batch(), torch.compile(copy_loss, backend="eager"))) == ("LA102",)


class Wrapper(nn.Module):
    """A trainer's own wrapper, which may forget the labels."""

    def __init__(self, model, *, passes_on):
        super().__init__()
        self.model, self.passes_on = model, passes_on

    def forward(self, input_ids, **kwargs):
        return self.model(input_ids=input_ids, **(kwargs if self.passes_on else {}))


@pytest.mark.parametrize("key", ["labels", "shift_labels"])
@pytest.mark.parametrize("passes_on", [True, False])
def test_a_wrapper_of_ones_own_may_keep_the_labels_to_itself(key, passes_on):
    if key == "shift_labels" and transformers.__version__.startswith("4.46"):
        pytest.skip("Llama takes no further keywords in transformers 4.46")
    model = Wrapper(tiny_model("LlamaForCausalLM"), passes_on=passes_on)
    batch = text_batch()
    del batch["attention_mask"]
    after = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=-100)
    batch[key] = after if key == "shift_labels" else text_batch()["labels"]

    def loss(model, batch):
        return F.cross_entropy(model(**batch).logits.flatten(0, 1), after.flatten())

    seen = watch(model, batch, loss)
    assert codes(seen) == ()
    assert seen.outer_labels == {key}
    assert seen.inner_labels == ({key} if passes_on else set())


class OwnLoss(Wrapper):
    """A wrapper that computes the loss itself, ``offset`` tokens on."""

    def __init__(self, model, *, offset):
        super().__init__(model, passes_on=False)
        self.offset = offset

    def forward(self, input_ids, labels=None, **kwargs):
        logits = super().forward(input_ids, **kwargs).logits
        targets = F.pad(labels, (0, self.offset), value=-100)[:, self.offset :]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(("offset", "expected"), [(1, ()), (0, ("LA102",))])
def test_a_wrapper_that_computes_the_loss_itself(offset, expected):
    model = OwnLoss(tiny_model("LlamaForCausalLM"), offset=offset)
    batch = text_batch()
    del batch["attention_mask"]
    report = check_loss(model, batch, lambda m, b: m(**b))
    assert tuple(f.code for f in report.findings) == expected
    assert "keeps the labels to itself" in report.check("labels-received").detail


def test_text_that_goes_without_its_labels_accuses_the_wrapper():
    model = Wrapper(tiny_model("LlamaForCausalLM"), passes_on=False)
    batch = text_batch()
    del batch["attention_mask"]
    assert codes(watch(model, batch, lambda m, b: m(**b).logits.sum() * 0)) == ("LA206", "LA601")


def test_labels_that_a_wrapper_asks_for_are_its_own():
    class Asking(Wrapper):
        def forward(self, input_ids, labels):
            return super().forward(input_ids)

    batch = text_batch()
    del batch["attention_mask"]
    model = Asking(tiny_model("LlamaForCausalLM"), passes_on=False)

    def loss(model, batch):
        return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    assert codes(watch(model, batch, loss)) == ()


def test_shift_labels_are_taken_as_they_are():
    model = tiny_model("LlamaForCausalLM")
    batch = text_batch()
    batch["shift_labels"] = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=-100)

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["shift_labels"].flatten())

    def shifted_again(model, batch):
        return model(input_ids=batch["input_ids"], labels=batch["shift_labels"]).loss

    assert codes(watch(model, batch, loss)) == ()
    assert codes(watch(model, batch, shifted_again)) == ("LA103",)


def test_inputs_and_labels_cut_by_the_data_code():
    model = tiny_model("LlamaForCausalLM")
    ids, labels = text_batch()["input_ids"], text_batch()["labels"]
    batch = {"input_ids": ids[:, :-1], "labels": labels[:, 1:]}

    def loss(model, batch):
        return F.cross_entropy(model(input_ids=batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten())

    assert codes(watch(model, batch, loss)) == ()
    assert codes(watch(model, batch, own_loss)) == ("LA103",)


# -- packed documents -----------------------------------------------------------------------------------

LENGTHS = (10, 14, 24)
STARTS = (0, 10, 24)


def packed(**given):
    ids = text_batch()["input_ids"].reshape(1, -1)
    labels = ids.clone()
    labels[:, list(STARTS)] = -100
    return {"input_ids": ids, "labels": labels, **given}


PACKINGS = {
    "position_ids": {"position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None]},
    "seq_idx": {"seq_idx": torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))[None]},
    "cu_seq_lens_q": {"cu_seq_lens_q": torch.tensor([0, 10, 24, 48])},
}


@pytest.mark.parametrize("given", PACKINGS.values(), ids=PACKINGS)
def test_packed_documents_must_not_be_crossed(given):
    model = tiny_model("LlamaForCausalLM")

    def loss(model, batch, targets):
        places = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        return F.cross_entropy(model(input_ids=batch["input_ids"], **places).logits[0, :-1], targets[0, 1:])

    assert codes(watch(model, packed(**given), lambda m, b: loss(m, b, b["labels"]))) == ()
    seen = watch(model, packed(**given), lambda m, b: loss(m, b, b["input_ids"]))
    assert codes(seen) == ("LA204",)
    assert seen.findings[0].count == 2
    assert [example.row for example in seen.findings[0].examples] == [9, 23]


def test_packed_documents_whose_borders_are_labelled():
    """The labels are a plain copy of the ids: the borders alone say what must not be trained."""
    batch = packed(**PACKINGS["position_ids"])
    batch["labels"] = batch["input_ids"].clone()
    seen = watch(tiny_model("LlamaForCausalLM"), batch, own_loss)
    assert codes(seen) == ("LA204",)


# -- vocabularies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "expected"), [(0, ("LA102",)), (1, ()), (2, ("LA103",))])
def test_a_vocabulary_smaller_than_the_sequence(offset, expected):
    """The ids repeat: only a barcode of several digits can tell the offsets apart."""
    model = tiny_model("LlamaForCausalLM", vocab_size=8, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    ids = torch.randint(0, 8, (1, 64), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids}

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits[0, : 64 - offset], batch["labels"][0, offset:])

    assert codes(watch(model, batch, loss)) == expected


def test_one_token_repeated_all_over():
    model = tiny_model("LlamaForCausalLM", vocab_size=8, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    ids = torch.full((1, 16), 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    assert codes(watch(model, batch, own_loss)) == ()
    assert codes(watch(model, batch, copy_loss)) == ("LA102",)


def test_a_large_vocabulary_on_a_narrow_model():
    model = tiny_model("LlamaForCausalLM", vocab_size=262144, hidden_size=8, num_hidden_layers=1)
    batch = text_batch()
    batch["input_ids"] = batch["input_ids"] * 2731
    batch["labels"] = batch["labels"].clamp(min=0) * 2731 + batch["labels"].clamp(max=0)
    assert codes(watch(model, batch, own_loss)) == ()
    assert codes(watch(model, batch, copy_loss)) == ("LA102",)

    def fused(model, batch):
        hidden = model.model(batch["input_ids"]).last_hidden_state[:, :-1].flatten(0, 1)
        return F.linear_cross_entropy(hidden, model.lm_head.weight, batch["labels"][:, 1:].flatten())

    if hasattr(F, "linear_cross_entropy"):
        assert codes(watch(model, batch, fused)) == ()


# -- sequences that the model lengthens -----------------------------------------------------------------


class Lengthening(nn.Module):
    """Expands each id into two positions, as models that expand placeholders do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids).repeat_interleave(2, dim=1))


def test_a_model_that_lengthens_the_sequence_is_refused():
    def loss(model, batch):
        return F.cross_entropy(model(batch["input_ids"])[:, : LENGTH - 1].mT, batch["labels"][:, 1:])

    model = Lengthening()
    with pytest.raises(InputError, match=r"called on 96 rows, the batch has 48"):
        witness(model, CausalLMAdapter(model, ("head",)), text_batch(), loss)


def test_an_image_put_before_the_text_is_refused_and_its_text_may_be_declared():
    sizes = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = tiny_model("GitForCausalLM", vision_config={**sizes, "image_size": 16, "patch_size": 8})
    batch = {**text_batch(), "pixel_values": torch.randn(2, 3, 16, 16)}
    with pytest.raises(InputError, match="the batch has 48 ids and the model's body 58 rows"):
        watch(model, batch, own_loss)
    declared = {"text": {"head": "output", "ids": "input_ids", "labels": "labels"}}  # whose rows are followed
    report = check_loss(model, batch, own_loss, streams=declared, replay=False)
    assert (report.findings, report.streams["text"]["offsets"]) == ([], {"1": 36})


def test_a_loss_over_several_adapters_leaves_the_active_one_as_it_was():
    import peft

    config = peft.LoraConfig(target_modules=["q_proj"])
    model = peft.get_peft_model(tiny_model("LlamaForCausalLM"), config)
    model.add_adapter("other", config)

    def both(model, batch):
        losses = []
        for name in ("default", "other"):
            model.set_adapter(name)
            losses.append(own_loss(model, batch))
        return sum(losses)

    assert check_loss(model, text_batch(), both).findings == []
    assert model.active_adapter == "default"
    assert model.base_model.model.model.layers[0].self_attn.q_proj.active_adapters == ["default"]
    model.set_adapter("other")
    model.requires_grad_(requires_grad=False)
    assert [found.code for found in check_loss(model, text_batch(), own_loss).findings] == ["LA602"]


# -- nothing is left behind -----------------------------------------------------------------------------


def state_of(model):
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return {
        "modes": [module.training for module in model.modules()],
        "grads": [parameter.grad is None for parameter in model.parameters()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": hooks,
        "patched": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
    }


def raises(model, batch):
    model.eval()
    model(**batch)
    torch.rand(3)
    raise KeyError("planted")


@pytest.mark.parametrize("loss", [own_loss, copy_loss, raises])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BartForConditionalGeneration"])
def test_nothing_is_left_behind(name, loss):
    model = tiny_model(name)
    next(model.parameters()).requires_grad_(requires_grad=False)
    before, weights = state_of(model), copy.deepcopy(model.state_dict())
    batch = text_batch()
    given = {key: value.clone() for key, value in batch.items()}
    if loss is raises:
        with pytest.raises(UsageError, match="KeyError: 'planted'"):
            watch(model, batch, loss)
    else:
        watch(model, batch, loss)
    assert state_of(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(batch[key], value) for key, value in given.items())
    own_loss(model, batch).backward()
    assert sum(parameter.grad is not None for parameter in model.parameters()) > 0
