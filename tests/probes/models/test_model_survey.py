"""Every class of transformers through the checks of the model: none fails that is right."""

import json

import pytest
from lm_batches import batch_for, sequence_batch
from lm_tiny import OLD, tiny_model
from lm_zoo import NOT_RUN, all_classes

from loss_align import main
from probes.checks.causality import causality, causality_check, causality_findings
from probes.checks.decode import decode_check
from probes.checks.padding import padding_matters
from probes.models import adapter_for
from probes.models.forward import forward
from probes.replay.perturbation import Rounding
from probes.witness.subject import Subject


def _each(names, value):
    return dict.fromkeys(names.split(), value)


_NGRAM = (
    "models/prophetnet/modeling_prophetnet.py, get_predict_relative_pos_embeddings: permute(0, 2, 1, 4, 3) lays rows "
    "before heads where the buckets have heads before rows, so that a logit depends on how long the sequence is"
)
_ROBERTA = (
    "generation/utils.py counts position_ids from 0 and hands them to the model, which in training counts them from "
    "padding_idx + 1 (models/roberta/modeling_roberta.py, create_position_ids_from_input_ids)"
)
_PERMUTATION = "attends both ways unless a perm_mask is given, and its labels are its inputs; generate gives one"
_CONTEXT = "models/cpmant/modeling_cpmant.py, forward: context is full of ones, so that every token sees all others"
_MASKED = "models/xlm/modeling_xlm.py, prepare_inputs_for_generation: appends a mask token and reads its row"
#: Classes whose training and generation differ, or that see their targets: the checks that fail, and the defect.
DEFECTS = {
    **_each("ProphetNetForCausalLM ProphetNetForConditionalGeneration", ({"decode"}, _NGRAM)),
    **_each("XLMProphetNetForCausalLM XLMProphetNetForConditionalGeneration", ({"decode"}, _NGRAM)),
    **_each(
        "CamembertForCausalLM Data2VecTextForCausalLM RobertaForCausalLM RobertaPreLayerNormForCausalLM "
        "XLMRobertaForCausalLM XmodForCausalLM",
        ({"decode"}, _ROBERTA),
    ),
    "XLMWithLMHeadModel": ({"decode"}, _MASKED),
    "XLNetLMHeadModel": ({"causality", "decode"}, _PERMUTATION),
    "CpmAntForCausalLM": ({"causality"} if OLD else {"causality", "decode"}, _CONTEXT),
}
_UNMASKED = (
    "models/bert_generation/modeling_bert_generation.py:789: no causal mask where use_cache is set, so that a prompt "
    "sees itself whole"
)
_FIRST = (
    "generation/utils.py:387 hands it the last id alone, from which models/fsmt/modeling_fsmt.py:754 counts the "
    "position: each token stands at the first"
)
_CHUNKS = (
    "models/mamba2/modeling_mamba2.py:512 tiles the groups that decoding interleaves, and :560 sums the decay over the "
    "chunks that a state reaches, later ones among them"
)
if OLD:
    DEFECTS["BertGenerationDecoder"] = ({"decode"}, _UNMASKED)
    DEFECTS["FSMTForConditionalGeneration"] = ({"decode"}, _FIRST)
    DEFECTS["Mamba2ForCausalLM"] = ({"causality", "decode"}, _CHUNKS)
else:
    DEFECTS["XLMRobertaXLForCausalLM"] = ({"decode"}, _ROBERTA)

#: Classes that once failed without a fault, and one of each kind of cache: attention, state, both; encoder and decoder.
QUICK = [
    name
    for name in _each(
        "LlamaForCausalLM GemmaForCausalLM BertLMHeadModel MixtralForCausalLM MambaForCausalLM JambaForCausalLM "
        "RwkvForCausalLM ReformerModelWithLMHead Qwen3NextForCausalLM DeepseekV32ForCausalLM "
        "PaliGemmaForConditionalGeneration M2M100ForConditionalGeneration NllbMoeForConditionalGeneration "
        "SeamlessM4TForTextToText MBartForConditionalGeneration PLBartForConditionalGeneration "
        "SwitchTransformersForConditionalGeneration FSMTForConditionalGeneration ProphetNetForCausalLM "
        "RobertaForCausalLM EncoderDecoderModel Pix2StructForConditionalGeneration "
        "Speech2TextForConditionalGeneration WhisperForConditionalGeneration",
        value=True,
    )
    if name in all_classes() and name not in NOT_RUN
]


def own_loss(model, batch):
    return model(**batch).loss


def surveyed(name):
    """The checks of a class by their names, and what other padding changes."""
    decoder = {"is_decoder": True} if OLD else {}  # else BERT and its kin attend both ways
    try:
        model = tiny_model(name, use_cache=True, **decoder)
    except TypeError:  # a configuration of parts, whose parts say it
        model = tiny_model(name)
    batch = sequence_batch(name) if model.config.is_encoder_decoder else batch_for(name)
    adapter = adapter_for(model)
    subject = Subject.watched(model, adapter, batch, own_loss)
    seen = subject.seen
    movement = Rounding(model, adapter, batch, forward(model, adapter, batch))
    told = causality(subject)
    padding, _ = padding_matters(model, adapter, batch, seen.view, movement)
    decoded, _ = decode_check(model, adapter, batch, movement)
    return {"causality": causality_check(told, causality_findings(told, seen.findings), padding), "decode": decoded}


def assert_surveyed(name):
    checks = surveyed(name)
    expected, reason = DEFECTS.get(name, (set(), ""))
    failed = {key for key, check in checks.items() if check.status == "fail"}
    assert failed == expected, (reason, {key: check.detail for key, check in checks.items()})
    assert all(check.detail for check in checks.values())
    return checks


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # EncoderDecoderModel
@pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")  # EncoderDecoderModel, of its own past
@pytest.mark.parametrize("name", QUICK)
def test_a_class_is_judged_and_fails_only_where_it_is_wrong(name):
    checks = assert_surveyed(name)
    assert {check.status for check in checks.values()} <= {"pass", "fail"}, checks


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")  # of one class in hundreds: none of ours
@pytest.mark.parametrize("name", [name for name in all_classes() if name not in QUICK])
def test_every_class_fails_only_where_it_is_wrong(name):
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    assert_surveyed(name)


#: Saved and checked by the command: decoder, encoder and decoder, multimodal, experts, states.
PREFLIGHT = [
    name
    for name in _each(
        "MambaForCausalLM MBartForConditionalGeneration PaliGemmaForConditionalGeneration "
        "LlamaForCausalLM GPT2LMHeadModel Gemma2ForCausalLM BloomForCausalLM MixtralForCausalLM JambaForCausalLM "
        "RwkvForCausalLM T5ForConditionalGeneration M2M100ForConditionalGeneration NllbMoeForConditionalGeneration "
        "SwitchTransformersForConditionalGeneration Qwen3NextForCausalLM DeepseekV3ForCausalLM "
        "Gemma3ForConditionalGeneration Qwen2VLForConditionalGeneration",
        value=True,
    )
    if name in all_classes() and name not in NOT_RUN
]


def assert_saved_passes(name, folder):
    tiny_model(name, use_cache=True).save_pretrained(folder / "model")
    code = main(["preflight", "--model", str(folder / "model"), "--json", str(folder / "report.json")])
    report = json.loads((folder / "report.json").read_text())
    assert code == 0, report["findings"]
    status = {check["id"]: check["status"] for check in report["checks"]}
    assert (status["causality"], status["decode"]) == ("pass", "pass")


@pytest.mark.parametrize("name", PREFLIGHT[:3])
def test_a_saved_model_passes_preflight(name, tmp_path):
    assert_saved_passes(name, tmp_path)


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")  # the same
@pytest.mark.parametrize("name", PREFLIGHT[3:])
def test_a_saved_model_of_every_kind_passes_preflight(name, tmp_path):
    assert_saved_passes(name, tmp_path)


def test_a_defect_is_one_of_a_class_that_exists_or_existed():
    assert all(failing and reason for failing, reason in DEFECTS.values())
    assert len(QUICK) >= 15
