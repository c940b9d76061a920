"""LoRA: a fresh adapter changes nothing, a step moves the adapters alone, and what breaks either is found."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, higgs_batch, higgs_model
from lm_batches import text_batch
from lm_tiny import tiny_model
from narrow import narrow_batch, narrow_default, narrow_model

from loss_align import main
from probes import check_loss
from probes.checks import lora
from probes.checks.engine import default_loss
from probes.checks.lora import Lora, broken_task_types, lora_check, wrapped
from probes.checks.preflight import Plan, preflight
from probes.errors import CannotRunError, UsageError
from probes.models import adapter_for
from probes.models.forward import forward
from probes.models.higgs import HiggsAdapter
from probes.replay.perturbation import Rounding
from probes.witness.subject import Subject

CHATML = Path(__file__).parents[3] / "fixtures" / "chatml"


def own_loss(model, batch):
    return model(**batch).loss


def llama(**options):
    bare = tiny_model("LlamaForCausalLM")
    return wrapped(bare, adapter_for(bare), Lora(r=2, **options), 0)


def judge(model, batch=None, loss=own_loss):
    adapter, batch = adapter_for(model), text_batch() if batch is None else batch
    subject = Subject.watched(model, adapter, batch, loss)
    check, findings = lora_check(subject, Rounding(model, adapter, batch, forward(model, adapter, batch)), {})
    return check, [f.code for f in findings]


@pytest.mark.parametrize("target", [(), ("q_proj", "lm_head"), ("all-linear",)], ids=["default", "head", "all"])
def test_a_fresh_adapter_passes(target):
    model = llama(target=target, dropout=0.1)
    before = {name: param.clone() for name, param in model.named_parameters()}
    check, found = judge(model)
    assert (check.status, found) == ("pass", []), check.detail
    assert "as without" in check.detail
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())
    assert all(param.grad is None for param in model.parameters())


def test_a_loss_that_reaches_through_the_wrapper_is_compared_with_its_adapters_off():
    check, found = judge(llama(), loss=lambda model, batch: model.base_model.model(**batch).loss)
    assert (check.status, found) == ("pass", []), check.detail
    assert "as without" in check.detail


def test_a_trained_adapter_is_not_compared_with_none():
    model = llama()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.fill_(0.01)
    check, found = judge(model)
    assert (check.status, found) == ("pass", [])
    assert "trained before" in check.detail


def test_adapters_that_are_no_lora_are_judged_by_what_they_train():
    import peft

    for config in (
        peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.LoHaConfig(target_modules=["q_proj"], r=2),
    ):
        check, found = judge(peft.get_peft_model(tiny_model("LlamaForCausalLM"), config))
        assert (check.status, found) == ("pass", [])
        assert f"{config.peft_type.value}, which need not begin as nothing" in check.detail


def test_a_wrapper_that_changes_the_outputs():
    model = llama()
    layer = model.base_model.model.model.layers[0].self_attn.v_proj
    layer.lora_B["default"].register_forward_hook(lambda _m, _a, out: out + 0.01)
    check, _ = judge(model)
    assert check.status == "fail"
    assert "with a fresh adapter differ from those without" in check.detail


def test_a_frozen_adapter():
    model = llama()
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    layer.lora_A.requires_grad_(requires_grad=False)
    layer.lora_B.requires_grad_(requires_grad=False)
    check, found = judge(model)
    assert not layer.lora_B["default"].weight.requires_grad
    assert (check.status, found) == ("fail", ["LA602"])
    assert "1 of 8 adapters do not move" in check.detail
    assert "frozen" in check.detail
    report = check_loss(model, text_batch(), own_loss)
    assert [f.code for f in report.findings] == ["LA602"]
    assert check_loss(llama(), text_batch(), own_loss).verdict == "pass"


def test_an_adapter_that_the_loss_does_not_reach():
    model = llama()
    layer = model.base_model.model.model.layers[1].self_attn.o_proj
    layer.lora_B["default"].register_forward_hook(lambda _m, _a, out: out.detach())
    check, found = judge(model)
    assert found == ["LA602"]
    assert "receives no gradient" in check.detail


def test_a_weight_that_is_not_frozen():
    model = llama()
    model.base_model.model.model.norm.weight.requires_grad_(requires_grad=True)
    check, found = judge(model)
    assert found == ["LA602"]
    assert "outside the adapters" in check.detail


def test_a_fresh_adapter_on_an_embedding_is_compared_with_none():
    """PEFT begins its first matrix at zero, not the second."""
    check, found = judge(llama(target=("embed_tokens",)))
    assert (check.status, found) == ("pass", [])
    assert "as without" in check.detail


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("LlamaForCausalLM", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("GPT2LMHeadModel", ["c_attn"]),
        ("BartForConditionalGeneration", ["k_proj", "out_proj", "q_proj", "v_proj"]),
        ("MambaForCausalLM", "all-linear"),
    ],
)
def test_default_targets(name, targets):
    model = tiny_model(name)
    assert adapter_for(model).lora_targets(model) == targets


def test_task_types_leave_the_model_whole():
    model = tiny_model("BertForMaskedLM")
    names = [name for name, _ in model.named_parameters()]
    broken = broken_task_types(model, adapter_for(model), text_batch())
    assert ("CAUSAL_LM" in broken) is not hasattr(model, "prepare_inputs_for_generation")
    assert [name for name, _ in model.named_parameters()] == names


def test_bad_targets_and_a_missing_peft(monkeypatch):
    with pytest.raises(UsageError, match=r"--lora-target no_such_layer: no layer is called no_such_layer$"):
        llama(target=("no_such_layer",))
    with pytest.raises(UsageError, match="--lora-target qproj, o: no layer is called qproj, the nearest is q_proj; no"):
        llama(target=("qproj", "o"))
    with pytest.raises(UsageError, match=r"--lora-target mlp: Target module LlamaMLP\( \.\.\. \) is not supported"):
        llama(target=("mlp",))
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(CannotRunError, match=r"pip install 'loss-alignment\[peft\]'"):
        lora.require_peft()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (("q_proj", "vproj"), ["no layer is called vproj, the nearest is v_proj"]),
        (("proj",), ["no layer is called proj"]),
        (
            ("layers.0.self_attn.q_proj", "layers.9.self_attn.q_proj"),
            ["no layer is called layers.9.self_attn.q_proj"],
        ),
        (("q_proj", "all-linear"), ["no layer is called all-linear"]),
        (("q_proj", "lm_head"), []),
        (("all-linear",), []),
        ((), []),
    ],
    ids=[
        "a slip beside a layer",
        "part of a name",
        "by path",
        "all-linear among others",
        "right",
        "all-linear",
        "default",
    ],
)
def test_a_target_that_no_layer_matches_is_named(target, told):
    """PEFT passes over it in silence where another target matches."""
    found = lora.no_layers(tiny_model("LlamaForCausalLM"), Lora(target=target))
    assert len(found) == len(told)
    assert all(part in one for one, part in zip(found, told, strict=True))


def test_a_target_that_no_layer_matches_stands_in_the_report(tmp_path):
    tiny_model("LlamaForCausalLM").save_pretrained(tmp_path / "llama")
    path = tmp_path / "report.json"
    words = ("--model", str(tmp_path / "llama"), "--length", "24", "--lora-target", "q_proj,vproj")
    assert main(["preflight", *words, "--json", str(path)]) == 0
    assert json.loads(path.read_text())["notes"] == [
        "--lora-target: no layer is called vproj, the nearest is v_proj; it is adapted nowhere"
    ]


def test_a_model_whose_adapters_are_all_frozen():
    """As PeftModel.from_pretrained leaves them: what training raises there is torch's, not ours."""
    model = llama()
    for param in model.parameters():
        param.requires_grad_(requires_grad=False)
    report = preflight(Plan(model, adapter_for(model), text_batch(), own_loss))
    assert [f.code for f in report.findings] == ["LA602"]
    assert report.check("training-step").detail == "no parameter of the model is trained by this batch: all are frozen"
    assert "it is frozen" in report.check("peft").detail


def test_an_adapter_that_the_loss_cannot_reach_trains_nothing():
    model = llama()
    model.base_model.model.lm_head.register_forward_pre_hook(lambda _m, args: (args[0].detach(),))
    report = preflight(Plan(model, adapter_for(model), text_batch(), own_loss))
    assert [f.code for f in report.findings] == ["LA602"]
    assert "none of the 16 trainable parameters takes part in the loss" in report.check("training-step").detail


# -- the Higgs models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def higgs(request):
    bare = higgs_model(request.param, wide=True)
    return wrapped(bare, adapter_for(bare), Lora(r=2, dropout=0.1), 0)


def default_of(model):
    return default_loss(adapter_for(model), "evidence")


@pytest.mark.higgs
def test_task_types_that_break_the_released_model():
    model, batch = narrow_model(), narrow_batch(2, length=96)
    flags = [param.requires_grad for param in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    broken = broken_task_types(model, HiggsAdapter(), batch)
    assert set(broken) == {"CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS"}
    assert "labels" in broken["CAUSAL_LM"]
    assert [name for name, _ in model.named_parameters()] == names
    assert [param.requires_grad for param in model.parameters()] == flags
    outer = wrapped(model, HiggsAdapter(), Lora(r=1), 0, "CAUSAL_LM")
    with pytest.raises(UsageError, match=r"task_type CAUSAL_LM .* call model.base_model\(\*\*batch\)"):
        check_loss(outer, batch, default_loss(HiggsAdapter(), "evidence"))
    past = default_loss(HiggsAdapter(), "evidence")
    assert check_loss(outer, batch, lambda model, batch: past(model.base_model, batch)).verdict == "pass"


@pytest.mark.higgs_v2
def test_no_task_type_breaks_transformers_own_model():
    model = higgs_model("higgs_v2")
    assert broken_task_types(model, adapter_for(model), higgs_batch(model)) == {}


def test_higgs_adapters_sit_in_the_attention_and_the_audio_path(higgs):
    adapted = {name.partition(".lora_")[0] for name, _ in higgs.named_parameters() if ".lora_" in name}
    audio = {name for name in adapted if "audio_mlp" in name}
    attention = {name for name in adapted if "self_attn" in name}
    assert (len(attention), len(audio) % 3) == (8, 0)
    assert audio
    assert attention | audio == adapted
    check, found = judge(higgs, higgs_batch(higgs), default_of(higgs))
    assert (check.status, found) == ("pass", []), check.detail


def text_only(model):
    """The batch that --data makes of conversations without audio."""
    if isinstance(adapter_for(model), HiggsAdapter):
        from probes.batches.chatml import chatml_batch

        return chatml_batch(CHATML / "text_only.jsonl", adapter_for(model).inner(model).config)[0]
    from probes.batches.chatml_v2 import chatml_batch_v2

    return chatml_batch_v2(CHATML / "text_only.jsonl", adapter_for(model).inner(model).config)[0]


def test_adapters_of_the_audio_path_are_not_judged_on_text(higgs):
    check, found = judge(higgs, text_only(higgs), default_of(higgs))
    assert (check.status, found) == ("pass", []), check.detail
    assert "no target of this batch depends on the other" in check.detail
    assert "audio_mlp.gate_proj: not judged" in check.detail


def test_an_adapter_that_is_cut_off_is_found_beside_those_that_are_not_judged(higgs):
    layer = next(module for name, module in higgs.named_modules() if name.endswith("layers.1.self_attn.o_proj"))
    hook = layer.lora_B["default"].register_forward_hook(lambda _m, _a, out: out.detach())
    check, found = judge(higgs, text_only(higgs), default_of(higgs))
    hook.remove()
    assert found == ["LA602"]
    assert "layers.1.self_attn.o_proj: it receives no gradient" in check.detail


def test_a_wrapper_that_drops_the_labels(higgs, monkeypatch):
    whole, adapter = type(higgs).forward, adapter_for(higgs)

    def without(self, *args, **kwargs):
        return whole(self, *args, **{**kwargs, adapter.label_keys[0]: None})

    monkeypatch.setattr(type(higgs), "forward", without)
    batch, loss = higgs_batch(higgs), default_of(higgs)
    subject = Subject.watched(higgs, adapter, batch, loss)
    assert "LA601" in [f.code for f in subject.seen.findings]
    check, _ = lora_check(subject, Rounding(higgs, adapter, batch, forward(higgs, adapter, batch)), {})
    assert check.status == "fail"
    assert "LA601" in check.detail


def test_a_loss_that_is_none_because_a_wrapper_drops_the_labels():
    model = llama()
    forward = model.forward

    def without(*args, labels=None, **kwargs):
        return forward(*args, **kwargs)

    model.forward = without
    with pytest.raises(UsageError, match=r"it returned None; labels was given to the outermost model .*LA601"):
        check_loss(model, text_batch(), own_loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_on_both_heads(family):
    bare = higgs_model(family)
    model = wrapped(bare, adapter_for(bare), Lora(r=2, target=("all-linear",)), 0)
    assert any("audio_lm_head.lora_A" in name for name, _ in model.named_parameters())
    check, found = judge(model, higgs_batch(model), default_of(model))
    assert (check.status, found) == ("pass", []), check.detail


@pytest.mark.higgs
@pytest.mark.parametrize(("sign", "status"), [(1, "pass"), (-1, "fail")], ids=["right", "audio trained upwards"])
def test_parameters_that_serve_one_stream_first_are_judged_by_each_alone(sign, status):
    """An adapter on the text embedding lowers the text loss, and lets the audio loss rise a little."""
    bare, batch = narrow_model(), narrow_batch(2, length=96)
    model = wrapped(bare, HiggsAdapter(), Lora(target=("embed_tokens",)), 0)

    def both(model, batch):
        losses = HiggsAdapter().dual(model, model(**batch), batch, "evidence")
        return losses.text + sign * losses.audio

    check = preflight(Plan(model, HiggsAdapter(), batch, both)).check("training-step")
    assert check.status == status
    assert ("audio alone" in check.detail) is (sign > 0)


def test_preflight_runs_on_the_wrapped_model(tmp_path, monkeypatch):
    narrow_default(monkeypatch)
    path = tmp_path / "report.json"
    options = ("--length", "96", "--lora-r", "16", "--lora-alpha", "32", "--lora-dropout", "0.05")
    assert main(["preflight", *options, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    status = {check["id"]: check["status"] for check in report["checks"]}
    expands = "expanded_labels" in report["shapes"]
    assert status.pop("fallback-path") == ("pass" if expands else "skip")
    assert set(status.values()) == {"pass"}
    assert {"peft", "causality", "decode"} <= set(status)
    assert all(cut["leaking"] == 0 for cut in report["causality"]["cuts"])


@pytest.mark.parametrize(
    "options", [("--lora-r", "0"), ("--lora-dropout", "1"), ("--lora-dropout", "nan"), ("--lora-target", " ,")]
)
def test_bad_options(options):
    assert main(["preflight", *options]) == 2
