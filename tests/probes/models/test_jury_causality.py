"""Causality of code that nobody here wrote: the own loss of every class of transformers, with other inputs."""

import warnings

import pytest
from jury import CODES, LOSSES, every_class, own_loss
from lm_batches import batch_for
from lm_tiny import OLD, VERSION, tiny_model
from lm_zoo import HEADS

from probes.checks.causality import causality, causality_findings
from probes.errors import UsageError
from probes.models import adapter_for
from probes.witness.subject import Subject

#: Encoders that attend both ways unless their configuration says ``is_decoder``; since transformers 5 they need not.
_ENCODERS = (
    "BertLMHeadModel BertGenerationDecoder BigBirdForCausalLM CamembertForCausalLM Data2VecTextForCausalLM "
    "ElectraForCausalLM ErnieForCausalLM MegaForCausalLM MegatronBertForCausalLM RemBertForCausalLM RobertaForCausalLM "
    "RobertaPreLayerNormForCausalLM RoCBertForCausalLM RoFormerForCausalLM XLMRobertaForCausalLM "
    "XLMRobertaXLForCausalLM XmodForCausalLM"
)
#: Defects of their time. Mamba2's chunks sum a decay over later ones (models/mamba2/modeling_mamba2.py:560); Doge's own
#: mask turns the causal mode of SDPA off, which is given no causal mask.
_DEFECTS = {"Mamba2ForCausalLM"} if OLD else {"DogeForCausalLM"}
LEAKS = {*_ENCODERS.split(), *_DEFECTS} if VERSION < (5, 0) else set()
#: Nothing to replay: its length is that of an image besides (LA101).
NOTHING = {"GitForCausalLM"}
BLIND = 0.05
#: A few of every kind in every run of the tests.
QUICK = (
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "MambaForCausalLM",
    "JambaForCausalLM",
    "BartForConditionalGeneration",
    "BertLMHeadModel",
)
PIECES = 8


def judged(name):
    """The codes that replay says of a class, and why it says nothing; None where the class is not run."""
    try:
        model, batch = CODES[name]() if name in CODES else (tiny_model(name), batch_for(name))
        adapter, loss = adapter_for(model, HEADS.get(name, ())), LOSSES.get(name, own_loss)
        subject = Subject.watched(model, adapter, batch, loss)
    except (Exception, UsageError):  # noqa: BLE001 - the jury tells why; here only what runs counts
        return None
    told = causality(subject)
    if told is None:
        return [], "nothing to replay"
    found = [one.code for one in causality_findings(told, subject.seen.findings)]
    return found, told.problem or ("" if told.cuts else "no cut")


def held(names):
    """How many ran, and why some were not judged."""
    ran, blind = 0, {}
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one class in hundreds: none of ours
            told = judged(name)
        if told is None:
            continue
        codes, problem = told
        ran += 1
        assert ("LA401" in codes) == (name in LEAKS), (name, told)
        if problem and name not in NOTHING:
            blind[name] = problem
    return ran, blind


def test_a_few_classes_of_every_kind_are_judged_rightly():
    assert held([name for name in QUICK if name in every_class()])[1] == {}


@pytest.mark.deep
@pytest.mark.parametrize("piece", range(PIECES))
def test_every_class_is_judged_rightly_and_few_are_blind(piece):
    ran, blind = held(every_class()[piece::PIECES])
    assert ran
    assert len(blind) <= BLIND * ran, blind
