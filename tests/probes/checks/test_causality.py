"""Causality and padding: what a row can see, on right models and on ones with a planted leak."""

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, higgs_batch, higgs_model, parts
from lm_batches import prefix_batch, sequence_batch, text_batch
from lm_tiny import OLD, tiny_model
from narrow import narrow_batch, narrow_model
from torch import nn

from probes.checks.causality import causality, causality_check
from probes.checks.engine import default_loss
from probes.checks.padding import padding_matters
from probes.models import adapter_for
from probes.models.forward import forward
from probes.replay.perturbation import Rounding
from probes.witness.subject import Subject
from probes.witness.witness import witness

VOCABULARY = 512


def own_loss(model, batch):
    return model(**batch).loss


def look(model, batch=None, loss=own_loss, replays=True):
    """The picture of a model on a batch."""
    adapter, batch = adapter_for(model), text_batch() if batch is None else batch
    return causality(Subject.watched(model, adapter, batch, loss), replays=replays)


def look_higgs(model, batch=None, loss=None):
    adapter = adapter_for(model)
    batch = higgs_batch(model) if batch is None else batch
    return look(model, batch, loss or default_loss(adapter, "evidence"))


def codes(told):
    return [(f.code, f.stream) for f in told.findings]


def sees_next(module, args, output):
    """The hidden state of a row, with a little of the next one."""
    hidden = output[0] if isinstance(output, tuple) else output
    return hidden + 0.1 * hidden.roll(-1, dims=1)


def sees_everything(module, args, kwargs):
    """An attention without a causal mask."""
    length = (args[0] if args else kwargs["hidden_states"]).shape[1]
    return args, {**kwargs, "attention_mask": torch.zeros(1, 1, length, length)}


# -- text models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM", "T5ForConditionalGeneration"]
)
def test_released_models_are_causal(name):
    told = look(tiny_model(name))
    assert told.findings == []
    assert told.problem == ""
    assert all(cut.leaking == 0 < cut.moved for cut in told.cuts)
    assert causality_check(told, told.findings).status == "pass"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_look_ahead_of_one(dtype):
    model = tiny_model("LlamaForCausalLM").to(dtype)
    assert look(model).findings == []
    model.model.norm.register_forward_hook(sees_next)
    told = look(model)
    assert codes(told) == [("LA401", "text")]
    assert "up to 1 position ahead" in told.findings[0].message
    assert all(cut.leaking == 1 and cut.strip.count("!") == 1 for cut in told.cuts)
    assert causality_check(told, told.findings).status == "fail"


def test_a_bidirectional_layer():
    model = tiny_model("LlamaForCausalLM")
    model.model.layers[1].self_attn.register_forward_pre_hook(sees_everything, with_kwargs=True)
    told = look(model)
    assert codes(told) == [("LA401", "text")]
    assert told.findings[0].count > 10
    assert max(cut.leaking for cut in told.cuts) == max(cut.position for cut in told.cuts)


def sees_others(module, args, out):
    """The hidden state of a row, with a little of the same row of the sample before."""
    return out + 0.1 * out.roll(1, dims=0)


def test_another_sample_must_not_be_seen_either():
    model = tiny_model("LlamaForCausalLM")
    model.model.norm.register_forward_hook(sees_others)
    told = look(model)
    assert codes(told) == [("LA401", "text")]
    assert "move when only other samples of the batch are replaced: text sample" in told.findings[0].message
    assert told.findings[0].fix.startswith("Keep the samples of a batch apart")
    model.model.norm.register_forward_hook(sees_next)
    both = look(model)
    assert "move when other samples of the batch or inputs after them are replaced, up to" in both.findings[0].message


def test_one_sample_alone_sees_no_other():
    model, batch = tiny_model("LlamaForCausalLM"), {key: value[:1] for key, value in text_batch().items()}
    model.model.norm.register_forward_hook(sees_others)
    assert look(model, batch).findings == []
    model.model.norm.register_forward_hook(sees_next)
    (found,) = look(model, batch).findings
    assert ("up to 1 position ahead" in found.message, "other samples" in found.message) == (True, False)


def test_a_prefix_that_sees_itself_is_no_fault():
    """Rows that are not trained may see later inputs, as in a prefix language model; it is said."""
    model, batch = tiny_model("LlamaForCausalLM"), text_batch()
    prefix = 16
    batch["labels"][:, :prefix] = -100

    def both_ways(module, args, kwargs):
        mask = torch.full((24, 24), torch.finfo(torch.float32).min).triu(1)
        mask[:prefix, :prefix] = 0
        return args, {**kwargs, "attention_mask": mask[None, None]}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(both_ways, with_kwargs=True)
    for replays in (True, "full"):
        told = look(model, batch, replays=replays)
        assert (told.findings, told.ahead) == ([], True)
        assert "not trained see later inputs" in told.notes[0]


def test_a_causal_model_has_read_nothing_ahead():
    assert not look(tiny_model("LlamaForCausalLM"), text_batch()).ahead


@pytest.mark.parametrize("name", ["MBartForConditionalGeneration", "FSMTForConditionalGeneration"])
def test_a_decoder_whose_ids_the_model_makes_is_causal_and_a_leak_in_it_is_seen(name):
    """MBart moves the last label to the front, FSMT reads the source's ids: neither is a later input."""
    model = tiny_model(name)
    told = look(model, sequence_batch(name))
    assert (codes(told), told.problem) == ([], "")
    model.get_decoder().layers[0].register_forward_hook(
        lambda _m, _a, out: (
            (out[0] + 0.1 * out[0].roll(-1, dims=0 if name.startswith("FSMT") else 1), *out[1:])
            if isinstance(out, tuple)
            else out + 0.1 * out.roll(-1, dims=1)
        )
    )
    assert codes(look(model, sequence_batch(name))) == [("LA401", "text")]


def test_experts_of_bounded_capacity_are_not_judged():
    name = "NllbMoeForConditionalGeneration"
    sparse = {"decoder_sparse_step": 1, "encoder_sparse_step": 1}
    torch.manual_seed(0)
    told = look(tiny_model(name, expert_capacity=8, **sparse), sequence_batch(name))
    assert codes(told) == []
    assert "routes tokens by capacity (an expert takes 8)" in told.problem
    assert causality_check(told, told.findings).status == "skip"


@pytest.mark.parametrize("leak", [False, True])
def test_a_model_that_draws_for_itself_in_training_is_judged_in_evaluation_mode(leak):
    """Reformer's dropout does; its noise must neither hide a look-ahead nor stand in for dependence."""
    model = tiny_model("LlamaForCausalLM")
    own = torch.Generator()

    def noisy(module, args, output):
        return output + torch.randn(output.shape, generator=own) if module.training else output

    model.model.norm.register_forward_hook(noisy)
    if leak:
        model.model.norm.register_forward_hook(sees_next)
    told = look(model)
    assert codes(told) == [("LA401", "text")] * leak
    assert "evaluation mode" in " ".join(told.notes)
    assert model.training


@pytest.mark.versions
@pytest.mark.skipif(not OLD, reason="since transformers 5 BertLMHeadModel attends to earlier tokens alone")
def test_a_bert_that_is_not_told_to_be_a_decoder():
    assert codes(look(tiny_model("BertLMHeadModel"))) == [("LA401", "text")]
    assert codes(look(tiny_model("BertLMHeadModel", is_decoder=True))) == []


@pytest.mark.skipif(OLD, reason="transformers 4 does not say which parts a configuration has")
def test_a_prompt_and_a_suffix_that_are_not_told_apart():
    model, batch = tiny_model("PaliGemmaForConditionalGeneration"), prefix_batch()
    batch["labels"][:, :12] = -100
    batch["token_type_ids"][:, :12] = 0
    told = look(model, batch, replays="full")
    assert (codes(told), told.problem) == ([], "")
    assert "not trained see later inputs" in told.notes[0]
    del batch["token_type_ids"]
    assert codes(look(model, batch)) == [("LA401", "text")]


def test_what_cannot_be_judged_does_not_pass():
    model = tiny_model("LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight.zero_()
    told = look(model)
    assert "do not depend on the inputs" in told.problem
    assert causality_check(told, told.findings).status == "skip"
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert look(model) is None  # LA501 has told of it
    assert causality_check(None, []).status == "skip"


def test_the_model_is_afterwards_as_before():
    model = tiny_model("LlamaForCausalLM", attention_dropout=0.5)
    state = torch.get_rng_state()
    assert look(model).findings == []  # dropout draws the same masks before and after a cut
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# -- padding ----------------------------------------------------------------------------------------------


def pad(model, batch=None):
    batch, adapter = text_batch() if batch is None else batch, adapter_for(model)
    seen = witness(model, adapter, batch, own_loss)
    movement = Rounding(model, adapter, batch, forward(model, adapter, batch))
    return padding_matters(model, adapter, batch, seen.view, movement)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "OPTForCausalLM", "T5ForConditionalGeneration"])
def test_padding_does_not_matter(name):
    assert pad(tiny_model(name)) == ("padding does not matter", [])


def test_positions_that_count_the_padding():
    said, findings = pad(tiny_model("GPT2LMHeadModel"))
    assert "LA402" in said
    assert [(f.code, f.severity) for f in findings] == [("LA402", "warning")]
    assert "on the left" in findings[0].message
    assert "on the right" not in findings[0].message


def test_a_mask_that_is_forgotten():
    model = tiny_model("LlamaForCausalLM")
    model.model.register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    _, findings = pad(model)
    assert [f.code for f in findings] == ["LA402"]


class Positioned(nn.Module):
    """A module of one's own with as many positions as the batch has, or ``more``."""

    def __init__(self, more=0):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)
        self.places = nn.Embedding(text_batch()["input_ids"].shape[1] + more, 16)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1])))


@pytest.mark.parametrize(("more", "said"), [(0, "with more of it the model raises IndexError"), (64, "")])
def test_padding_that_finds_no_positions_is_not_varied_and_says_so(more, said):
    model, batch = Positioned(more), text_batch()
    adapter = adapter_for(model, ["head"])
    view, rounding = adapter.view(model, batch), Rounding(model, adapter, batch, forward(model, adapter, batch))
    told, _ = padding_matters(model, adapter, batch, view, rounding)
    assert said in told
    assert ("not varied" in told) is bool(said)


# -- the Higgs models -----------------------------------------------------------------------------


def lone_sample(model):
    """93 positions: the model pads them left to 96."""
    batch = adapter_for(model).split(model, narrow_batch(2, length=96))[1]
    real = batch["attention_mask"][0].bool()
    return {**batch, **{key: batch[key][:, real].clone() for key in ("input_ids", "attention_mask", "label_ids")}}


KINDS = {
    "higgs": {"inside text", "inside reference audio", "inside target audio", "from text to target audio"},
    "higgs_v2": {"inside text", "inside audio", "from text to audio", "from audio to text"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_higgs_is_causal(family):
    told = look_higgs(higgs_model(family))
    assert told.findings == []
    assert KINDS[family] <= {cut.what for cut in told.cuts}
    assert all(cut.leaking == 0 < cut.moved for cut in told.cuts)


@pytest.mark.parametrize("family", FAMILIES)
def test_higgs_with_a_look_ahead_of_one(family):
    model = higgs_model(family)
    parts(family, model).norm.register_forward_hook(sees_next)
    assert codes(look_higgs(model)) == [("LA401", "text"), ("LA401", "audio")]


@pytest.mark.parametrize("family", FAMILIES)
def test_higgs_whose_audio_alone_looks_ahead(family):
    model = higgs_model(family)
    parts(family, model).audio_head.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.roll(-1, dims=-2))
    assert codes(look_higgs(model)) == [("LA401", "audio")]


@pytest.mark.parametrize("family", FAMILIES)
def test_higgs_with_a_bidirectional_layer(family):
    model = higgs_model(family)
    parts(family, model).layers[1].self_attn.register_forward_pre_hook(sees_everything, with_kwargs=True)
    assert ("LA401", "text") in codes(look_higgs(model))


@pytest.mark.higgs_v2
def test_higgs_v2_without_a_text_head_is_causal_by_its_audio():
    told = look_higgs(higgs_model("higgs_v2", use_text_head=False))
    assert (told.findings, told.problem) == ([], "")
    assert all(cut.leaking == 0 < cut.moved for cut in told.cuts)


@pytest.mark.higgs
def test_higgs_trains_the_padding_before_a_lone_sample():
    """A lone sample is padded left, and the last padding row sees the token that follows it."""
    model = narrow_model()
    batch = lone_sample(model)
    batch["label_ids"][:, :1] = batch["input_ids"][:, :1]

    def loss(model, batch):
        out = model(**batch)
        text = F.cross_entropy(out.logits[0, :-1], out.expanded_labels[0, 1:])
        return text + F.cross_entropy(out.audio_logits[:-1].mT, batch["label_audio_ids"].T[1:])

    told = look_higgs(model, batch, loss)
    assert codes(told) == [("LA401", "text")]
    assert "1 of them are padding" in told.findings[0].message


@pytest.mark.higgs_v2
def test_higgs_v2_padding_does_not_matter():
    model = higgs_model("higgs_v2")
    assert pad(model, higgs_batch(model)) == ("padding does not matter", [])
    parts("higgs_v2", model).layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    _, findings = pad(model, higgs_batch(model))
    assert [f.code for f in findings] == ["LA402"]


@pytest.mark.higgs
@pytest.mark.parametrize("alone", [True, False])
def test_higgs_padding_does_not_matter(alone):
    model = narrow_model()
    adapter, batch = adapter_for(model), lone_sample(model) if alone else narrow_batch(2, length=96)
    seen = witness(model, adapter, batch, default_loss(adapter, "evidence"))

    def judged():
        rounding = Rounding(model, adapter, batch, forward(model, adapter, batch))
        return padding_matters(model, adapter, batch, seen.view, rounding)

    assert judged() == ("padding does not matter", [])
    model.layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    _, findings = judged()
    assert [f.code for f in findings] == ["LA402"]
