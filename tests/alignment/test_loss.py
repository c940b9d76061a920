"""The dual loss: its value, its decisions, its log, and three witnesses that agree on it."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from higgs_setting import TOKENS, Setting, higgs_expansion
from hypothesis import assume, given
from planted import plain_stream
from strategies import CODEBOOKS, End, HiggsCase, Reference, Target, Text, higgs_cases

from alignment import (
    IGNORE_INDEX,
    AlignmentError,
    Convention,
    InputError,
    Pairing,
    choose,
    dual_loss,
    expect,
    pair,
    recover,
)
from alignment.cross_entropy import mean_cross_entropy
from alignment.loss import codebook_loss, join_streams, text_loss
from probes.models.higgs import small_model

__ = IGNORE_INDEX
NONE = torch.zeros(0, dtype=torch.long)
EXAMPLE = HiggsCase(
    (
        (Text(4, "nothing"), Reference(2), Text(5, "all"), Target(3, trained=True), End(labelled=True)),
        (Text(3, "prompt masked"), Target(0, trained=True), Target(2, trained=False), Text(2, "all")),
    ),
    use_delay_pattern=True,
)


def plain_values(setting, dtype):
    """Text and audio loss in plain torch: shift, flatten, cross-entropy."""
    labels = setting.shifted()
    text = F.cross_entropy(setting.logits.to(dtype).flatten(0, 1), labels.flatten())
    audio = []
    for k, book in enumerate(setting.books):
        target = expect(setting.batch["label_audio_ids"][k], book).target
        if bool((target != __).any()):
            audio.append(F.cross_entropy(setting.audio[:, k].to(dtype), target))
    zero = torch.zeros((), dtype=dtype)
    return (text if bool((labels != __).any()) else zero), (torch.stack(audio).mean() if audio else zero)


def within_budget(ours, truth, reference):
    """No further from the truth than the reference is, but for a rounding."""
    budget = (truth - reference.double()).abs() + 1e-6
    return not bool(((truth - ours.double()).abs() <= budget).logical_not())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("use_delay_pattern", [True, False], ids=["delayed", "undelayed"])
def test_the_value_is_the_recomputed_one(dtype, use_delay_pattern):
    setting = Setting(HiggsCase(EXAMPLE.samples, use_delay_pattern), dtype)
    ours = setting.loss()
    truth, reference = plain_values(setting, torch.float64), plain_values(setting, torch.float32)
    for value, true, near in zip((ours.text, ours.audio), truth, reference, strict=True):
        assert value.dtype == torch.float32
        assert within_budget(value, true, near)
    assert within_budget(ours.total, sum(truth), sum(reference))
    assert not within_budget(ours.text + 1e-3, truth[0], reference[0])


@given(higgs_cases)
def test_the_value_is_the_recomputed_one_on_any_batch(case):
    setting = Setting(case)
    ours = setting.loss()
    truth, reference = plain_values(setting, torch.float64), plain_values(setting, torch.float32)
    assert within_budget(ours.text, truth[0], reference[0])
    assert within_budget(ours.audio, truth[1], reference[1])


@given(higgs_cases)
def test_three_witnesses_agree(case):
    setting = Setting(case)
    wanted = expect(setting.expansion.labels, setting.stream).target
    decision = choose(setting.logits, setting.expansion.labels, stream=setting.stream)
    assert torch.equal(pair(decision.labels, decision.pairing, setting.stream).reshape(-1), wanted)
    assert torch.equal(recover(lambda z: setting.loss(logits=z).text, setting.logits).target, wanted)
    if not len(setting.audio):
        assert setting.loss().audio_decision is None
        return
    heard = recover(lambda z: setting.loss(audio_logits=z).audio, setting.audio).target.view(-1, CODEBOOKS)
    for k, book in enumerate(setting.books):
        assert torch.equal(heard[:, k], expect(setting.batch["label_audio_ids"][k], book).target)


@given(higgs_cases)
def test_three_witnesses_agree_on_labels_shifted_beforehand(case):
    setting = Setting(case)
    labels = setting.shifted()
    assume(bool((labels != __).any()))
    decision = choose(setting.logits, labels, stream=setting.stream)
    assume(decision.convention is not Convention.AMBIGUOUS)  # two ends of turn in a row
    assert (decision.convention, decision.pairing) == (Convention.PRE_SHIFTED, Pairing.DIRECT)
    wanted = expect(labels, setting.stream, decision.convention).target
    assert torch.equal(pair(decision.labels, decision.pairing).reshape(-1), wanted)
    loss = recover(lambda z: setting.loss(logits=z, expanded_labels=labels).text, setting.logits)
    assert torch.equal(loss.target, wanted)


def test_outputs_may_be_attributes_or_items():
    setting = Setting(EXAMPLE)
    by_item = setting.loss()
    by_attribute = dual_loss(SimpleNamespace(**setting.outputs()), setting.batch, **setting.tokens)
    assert torch.equal(by_item.total, by_attribute.total)


@given(higgs_cases)
def test_the_fallback_expands_the_raw_labels_to_the_same_loss(case):
    setting = Setting(case)
    expanded, fallback = setting.loss(), setting.loss(expanded_labels=None)
    assert torch.equal(expanded.text, fallback.text)
    assert fallback.text_decision.path in {"fallback", "none"}
    assert fallback.text_decision.verified == expanded.text_decision.verified


def test_the_fallback_without_a_mask_takes_every_token_for_real():
    setting = Setting(HiggsCase(((Text(4, "all"), Target(3, trained=True), End(labelled=True)),), True))
    masked = setting.loss(expanded_labels=None)
    del setting.batch["attention_mask"]
    assert torch.equal(setting.loss(expanded_labels=None).text, masked.text)


def test_the_default_tokens_are_those_of_the_released_checkpoint():
    batch = EXAMPLE.batch()
    expansion = higgs_expansion(batch, **TOKENS)
    logits = torch.zeros(()).expand(*expansion.ids.shape, int(expansion.ids.max()) + 1)
    assert torch.equal(dual_loss({"logits": logits}, batch).text_decision.labels, expansion.labels)


def test_a_model_without_audio_is_verified_by_the_ids_of_its_batch():
    logits = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 6, 7, 8]])
    batch = {"input_ids": ids, "label_ids": ids}
    found = dual_loss({"logits": logits}, batch)
    assert (found.text_decision.path, found.text_decision.verified) == ("fallback", True)
    assert torch.equal(found.total, F.cross_entropy(logits[0, :3], ids[0, 1:]))
    unknown = dual_loss({"logits": logits}, {"label_ids": ids})
    assert not unknown.text_decision.verified
    assert torch.equal(unknown.total, found.total)
    shifted = dual_loss({"logits": logits}, {"input_ids": ids, "label_ids": torch.tensor([[6, 7, 8, __]])})
    assert torch.equal(shifted.total, found.total)


@pytest.mark.parametrize(("policy", "differs"), [("shifted", False), ("direct", True)])
def test_a_named_policy_is_obeyed_in_both_streams(policy, differs, caplog):
    setting = Setting(EXAMPLE)
    right, named = setting.loss(), setting.loss(policy)
    assert (float(right.text) != float(named.text)) is differs
    assert (float(right.audio) != float(named.audio)) is differs
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    decisions = {"text": named.text_decision, "audio": named.audio_decision}
    assert warned == [f"{name}: {why}" for name, decision in decisions.items() for why in decision.warnings]
    assert len(warned) == (2 if differs else 0)
    copied = recover(lambda z: setting.loss(policy, logits=z).text, setting.logits).target
    assert torch.equal(copied, setting.expansion.labels.reshape(-1)) is differs


@pytest.mark.parametrize(("cut", "pairing"), [(0, "shifted"), (1, "direct")], ids=["whole", "cut-beforehand"])
def test_codebooks_end_where_they_end(cut, pairing):
    """Codes cut as ``codes[:-1]``, ``labels[1:]``: no codebook goes on in the next one."""
    codes = torch.arange(24).view(CODEBOOKS, 3)
    batch = {
        "audio_out_ids": codes[:, : 3 - cut],
        "label_audio_ids": codes[:, cut:],
        "audio_out_ids_start": torch.tensor([0]),
    }
    logits = torch.zeros(3 - cut, CODEBOOKS, 30)
    decision = dual_loss({"logits": torch.zeros(1, 1, 2), "audio_logits": logits}, batch).audio_decision
    assert (str(decision.pairing), decision.verified) == (pairing, True)
    heard = recover(lambda z: dual_loss({"logits": z.new_zeros(1, 1, 2), "audio_logits": z}, batch).audio, logits)
    targets = torch.full_like(codes[:, cut:], __)
    targets[:, : 2 if cut else -1] = codes[:, 1:]
    assert torch.equal(heard.target.view(-1, CODEBOOKS).T, targets)


def test_an_audio_never_goes_on_in_the_next_one():
    codes = torch.arange(CODEBOOKS * 5).view(CODEBOOKS, 5)
    batch = {"audio_out_ids": codes, "label_audio_ids": codes, "audio_out_ids_start": torch.tensor([0, 3])}
    logits = torch.zeros(5, CODEBOOKS, 50)
    heard = recover(lambda z: dual_loss({"logits": z.new_zeros(1, 1, 2), "audio_logits": z}, batch).audio, logits)
    for k, targets in enumerate(heard.target.view(-1, CODEBOOKS).T.tolist()):
        assert targets == [5 * k + 1, 5 * k + 2, __, 5 * k + 4, __]


def test_the_loss_of_codebooks_and_of_a_text_go_by_the_evidence_if_nothing_else_is_said():
    setting = Setting(EXAMPLE)
    found, decision = codebook_loss(setting.audio, setting.batch["label_audio_ids"], setting.books)
    assert torch.equal(found, setting.loss().audio)
    assert decision.verified
    found, decision = text_loss(setting.logits, setting.expansion.labels.reshape(-1), setting.stream)
    assert torch.equal(found, setting.loss().text)
    assert decision.verified


def test_joined_codebooks_keep_their_rows_and_part_their_segments():
    first = plain_stream([1, 2, 0], name="audio[0]", segment=[0, 1, -1], sample=[0, 1, 1], filler=[False, True, False])
    second = plain_stream([3, 4, 9], name="audio[1]", segment=[0, 1, -1], sample=[0, 1, 1], end_ids=[9])
    whole = join_streams((replace(first, vocab=30, end_ids=(9,)), replace(second, vocab=30)))
    assert (whole.name, whole.vocab, whole.end_ids) == ("audio", 30, (9,))
    assert whole.ids.tolist() == [1, 2, 0, 3, 4, 9]
    assert whole.segment.tolist() == [0, 1, -1, 2, 3, -1]
    assert whole.sample.tolist() == [0, 1, 1] * 2
    assert whole.row.tolist() == [0, 1, 2] * 2
    assert whole.filler.tolist() == [False, True, False, False, False, False]
    assert len(join_streams((plain_stream(NONE), plain_stream(NONE)))) == 0
    assert join_streams((first,)).segment.tolist() == first.segment.tolist()


def test_without_a_label_both_losses_are_zeros_tied_to_their_logits():
    setting = Setting(HiggsCase(((Text(3, "nothing"), Target(1, trained=False)),), use_delay_pattern=True))
    logits, audio = setting.logits.requires_grad_(), setting.audio.requires_grad_()
    loss = setting.loss()
    assert (float(loss.text.detach()), float(loss.audio.detach())) == (0, 0)
    assert (loss.text_decision.pairing, loss.audio_decision.pairing) == (None, None)
    grads = torch.autograd.grad(loss.total, [logits, audio])
    assert all(not bool(grad.any()) for grad in grads)


def test_a_model_without_labels_or_audio_at_all_has_no_decision():
    loss = dual_loss(SimpleNamespace(logits=torch.ones(1, 2, 3, requires_grad=True)), {})
    assert (loss.text_decision, loss.audio_decision) == (None, None)
    assert loss.total.requires_grad
    assert float(loss.total.detach()) == 0


def test_labels_or_logits_of_audio_alone_have_no_loss():
    logits, codes = torch.ones(1, 2, 3), torch.ones(8, 4, dtype=torch.long)
    labels_alone = dual_loss({"logits": logits}, {"label_audio_ids": codes})
    logits_alone = dual_loss({"logits": logits, "audio_logits": torch.ones(4, 8, 9, requires_grad=True)}, {})
    assert (labels_alone.audio_decision, logits_alone.audio_decision) == (None, None)
    assert (float(labels_alone.total), float(logits_alone.total.detach())) == (0, 0)
    assert logits_alone.total.requires_grad  # tied to its logits
    assert not logits_alone.audio.requires_grad


def test_the_mask_of_a_batch_without_audio_ends_its_samples():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "label_ids": torch.tensor([[6, 7, 8, __]]),  # cut beforehand: 8 is no input
    }
    assert dual_loss({"logits": torch.zeros(1, 4, 9)}, batch).text_decision.convention is Convention.PRE_SHIFTED


@pytest.mark.parametrize("labelled", [1, 5, 20], ids=["gathered", "few", "all"])
def test_mean_cross_entropy_is_the_same_gathered_or_not(labelled):
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 7
    targets[labelled:] = __
    assert torch.equal(mean_cross_entropy(logits, targets), F.cross_entropy(logits[:labelled], targets[:labelled]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("labelled", [0, 1, 10, 12, 14, 16, 20])
def test_gathered_or_not_gradients_are_those_of_plain_cross_entropy(labelled, dtype):
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    targets = torch.arange(20) % 7
    targets[labelled:] = __
    (ours,) = torch.autograd.grad(mean_cross_entropy(logits, targets), logits)
    plain = F.cross_entropy(logits.float(), targets, reduction="sum") / max(labelled, 1)
    assert torch.allclose(ours, torch.autograd.grad(plain, logits)[0], rtol=torch.finfo(dtype).eps * 2, atol=1e-9)


def test_the_loss_of_half_precision_logits_is_not_rounded_to_it():
    """As the seed's snippet does it, the loss itself comes back in bfloat16: to three digits."""
    setting = Setting(EXAMPLE, torch.bfloat16)
    truth, _ = plain_values(setting, torch.float64)
    seed = F.cross_entropy(setting.logits.flatten(0, 1), setting.shifted().flatten())
    assert seed.dtype == torch.bfloat16
    assert abs(float(setting.loss().text) - float(truth)) <= 1e-6 * float(truth)
    assert not abs(float(seed) - float(truth)) <= 1e-6 * float(truth)


# -- the log ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "✓ Model expanded labels shape: (2, 40) (expanded path)"),
        ({"expanded_labels": None}, "Labels expanded here: (2, 40) (fallback path)"),
    ],
    ids=["expanded", "fallback"],
)
def test_the_log_says_which_path_was_taken(changed, line, caplog):
    setting = Setting(EXAMPLE)
    with caplog.at_level(logging.INFO, logger="alignment"):
        loss = setting.loss(**changed)
    said = [record.getMessage() for record in caplog.records]
    assert line in said
    assert said[0] == "Text logits shape: (2, 40, 21)"
    heard = sum(
        int((expect(setting.batch["label_audio_ids"][k], b).target != __).sum()) for k, b in enumerate(setting.books)
    )
    assert f"Audio logits shape: (32, 8, 1026), pairing shifted, {heard} valid codes" in said
    assert "✓ Pairing shifted (position_aligned, verified): loss on 14 valid tokens" in said
    assert f"✓ Text loss: {float(loss.text):.4f}" in said
    assert f"✓ Audio loss: {float(loss.audio):.4f}" in said
    assert said[-1] == f"✓ Total loss: {float(loss.total):.4f}"


def test_the_log_says_what_could_not_be_verified(caplog):
    with caplog.at_level(logging.INFO, logger="alignment"):
        dual_loss({"logits": torch.zeros(1, 3, 9)}, {"label_ids": torch.tensor([[5, 6, 7]])})
    said = [record.getMessage() for record in caplog.records]
    assert "✓ Pairing shifted (ambiguous, unverified): loss on 2 valid tokens" in said


def test_nothing_is_logged_unless_asked_for(caplog):
    with caplog.at_level(logging.WARNING, logger="alignment"):
        Setting(EXAMPLE).loss()
    assert caplog.records == []


# -- what cannot be paired ----------------------------------------------------------------------------


def test_trimmed_logits_are_refused_with_both_lengths():
    setting = Setting(EXAMPLE)
    with pytest.raises(AlignmentError, match="logits and labels of text differ in length: 39 vs 40") as error:
        setting.loss(logits=setting.logits[:, :-1], expanded_input_ids=None)
    assert error.value.code == "LA101"
    with pytest.raises(AlignmentError, match="audio_logits have 31 frames, label_audio_ids 32") as error:
        setting.loss(audio_logits=setting.audio[:-1])
    assert (error.value.code, error.value.stream) == ("LA101", "audio")


# -- on the released model ----------------------------------------------------------------------------


@pytest.mark.higgs
@pytest.mark.parametrize("with_labels", [True, False], ids=["expanded", "fallback"])
def test_the_released_model(with_labels):
    batch = EXAMPLE.batch()
    given = batch if with_labels else {**batch, "label_ids": None}
    with torch.no_grad():
        out = small_model(hidden=16, layers=1)(**given)
    loss = dual_loss(out, batch)
    assert loss.text_decision.path == ("expanded" if with_labels else "fallback")
    assert loss.text_decision.verified
    assert loss.audio_decision.verified
    labels = higgs_expansion(batch, **TOKENS).labels
    text = F.cross_entropy(out.logits[:, :-1].double().flatten(0, 1), labels[:, 1:].flatten())
    assert within_budget(loss.text, text, loss.text)
    assert abs(float(loss.text) - float(text)) <= 1e-5
    with pytest.raises(InputError, match="they must be"):
        dual_loss({**out, "audio_logits": out.audio_logits[:, :4]}, batch)
