"""Properties of the engine on the real model, on any batch: lengths, decisions, three witnesses, equivalences."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from narrow import narrow_model, narrowed
from strategies import higgs_cases

from alignment import IGNORE_INDEX, Convention, expect, infer_convention
from alignment.findings import LOSS
from probes.batches.barcoded import hand_labels
from probes.checks.budget import loss_budget
from probes.checks.engine import default_loss, quiet_engine
from probes.checks.reduction import check_reduction
from probes.models.forward import forward, length_problem
from probes.models.higgs import HiggsAdapter
from probes.witness.witness import Options, witness

pytestmark = pytest.mark.higgs

ADAPTER = HiggsAdapter()
#: Every group of properties (lengths, witnesses, layout) sees at least 200 batches in the quick profile; what is
#: trained, and where it lies, is asked of the same ones.
FEW = settings(
    max_examples=max(70, settings.default.max_examples // 4), suppress_health_check=[HealthCheck.filter_too_much]
)


@cache
def model_for(delayed):
    model = narrow_model(hidden=16, layers=1)
    model.config.use_delay_pattern = delayed
    return model


#: What runs a batch several times over sees fewer, and what runs it once more: of their group still 200 in all.
LAID_OUT = settings(FEW, max_examples=max(25, settings.default.max_examples // 8))
REORDERED = settings(FEW, max_examples=max(45, settings.default.max_examples // 6))
INSIDE = settings(FEW, max_examples=max(130, settings.default.max_examples // 4))

#: Accumulation takes two passes per sample.
FEWER = settings(FEW, max_examples=max(5, settings.default.max_examples // 16))


def prepared(case, how="position-aligned"):
    model = model_for(case.use_delay_pattern)
    batch = hand_labels(narrowed(case.batch()), how)
    assume(batch["input_ids"].numel() > 0)
    return model, batch, ADAPTER.view(model, batch)


def expectations(view, convention=Convention.POSITION_ALIGNED):
    return [
        expect(labels, stream, "position_aligned" if stream.is_audio else convention, carried=carried)
        for labels, stream, carried in zip(view.labels, view.streams, view.carried, strict=True)
    ]


def of_the_loss(seen):
    """Errors of the loss; what a drawn mask itself lacks (an end token) is not the loss's fault."""
    return [f for f in seen.findings if f.is_error and f.basis == LOSS]


@FEW
@given(higgs_cases)
def test_lengths_agree_and_the_decision_is_right(case):
    for how, convention, pairing in (
        ("position-aligned", "position_aligned", "shifted"),
        ("pre-shifted", "pre_shifted", "direct"),
    ):
        model, batch, view = prepared(case, how)
        outputs = forward(model, ADAPTER, batch)
        assert length_problem(outputs, view) == ""
        with quiet_engine():
            decision = ADAPTER.dual(model, outputs, batch, "evidence").text_decision
        fits = [c for c in ("position_aligned", "pre_shifted") if _fits(view, c)]
        if not bool((view.labels[0] != IGNORE_INDEX).any()):
            assert decision.pairing is None
        elif fits == [convention]:  # an independent brute force says that the ids are unambiguous
            assert (str(decision.pairing), decision.verified) == (pairing, True)
        else:
            assert not decision.verified


def _fits(view, convention):
    """Whether every label is the token that the convention says, checked row by row."""
    stream, labels = view.streams[0], view.labels[0].tolist()
    ids, segment = stream.ids.tolist(), stream.segment.tolist()
    for row, label in enumerate(labels):
        if label == IGNORE_INDEX:
            continue
        if convention == "position_aligned":
            if ids[row] != label:
                return False
        elif row + 1 < len(ids) and segment[row + 1] == segment[row] >= 0 and ids[row + 1] != label:
            return False
    return True


@FEW
@given(higgs_cases)
def test_its_value_is_cross_entropy_over_the_expected_pairs(case):
    model, batch, view = prepared(case)
    outputs = forward(model, ADAPTER, batch)
    with quiet_engine():
        dual = ADAPTER.dual(model, outputs, batch, "evidence")
    text = expectations(view)[0]
    if bool(text.trained.any()):
        budget = loss_budget(dual.text, outputs.logits.flatten(0, 1), text.target)
        assert budget.kept, str(budget)
    else:
        assert float(dual.text) == 0.0


@FEW
@given(higgs_cases)
def test_the_other_pairing_is_refused(case):
    model, batch, view = prepared(case)
    evidence = infer_convention(view.labels[0], view.streams[0])
    assume(evidence.convention is Convention.POSITION_ALIGNED and evidence.labelled > 1)
    seen = witness(model, ADAPTER, batch, default_loss(ADAPTER, "direct"), Options())
    assert {f.code for f in of_the_loss(seen) if f.stream == "text"} == {"LA102"}


def hand_written(model, batch):
    """A correct loss that sums, so that splitting and padding must not change any weight."""
    out = model(**batch)
    text = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), out.expanded_labels[:, 1:].flatten(), reduction="sum")
    if not out.audio_logits.shape[0]:
        return text
    labels = batch["label_audio_ids"]
    return text + sum(F.cross_entropy(out.audio_logits[:-1, k], labels[k, 1:], reduction="sum") for k in range(8))


def supervision_by_token(model, batch):
    """(stream, id read, id trained): weight, summed: what must not depend on how a batch is laid out."""
    seen = witness(model, ADAPTER, batch, hand_written, Options())
    out = {}
    for one in seen.actual:
        for row in torch.nonzero(one.trained).reshape(-1).tolist():
            key = (one.stream.name, int(one.stream.ids[row]), int(one.target[row]))
            out[key] = out.get(key, 0.0) + round(float(one.weight[row]), 4)
    return out


@LAID_OUT
@given(higgs_cases)
def test_splitting_and_padding_change_no_supervision(case):
    model, batch, _ = prepared(case)
    batch["label_ids"][:, 0] = IGNORE_INDEX  # on a left-padded lone sample it would train a padding row: LA202
    assume(any(bool(e.trained.any()) for e in expectations(ADAPTER.view(model, batch))))
    whole = supervision_by_token(model, batch)
    split = {}
    for part in ADAPTER.split(model, batch):
        for key, weight in supervision_by_token(model, part).items():
            split[key] = split.get(key, 0.0) + weight
    assert split == pytest.approx(whole)
    wider = dict(batch)
    for key, fill in (("input_ids", model.config.pad_token_id), ("attention_mask", 0), ("label_ids", IGNORE_INDEX)):
        wider[key] = F.pad(batch[key], (0, 8), value=fill)
    assert supervision_by_token(model, wider) == pytest.approx(whole)


def joined(parts):
    """One batch of several: samples below each other, their audios behind each other."""
    out = {key: torch.cat([part[key] for part in parts]) for key in ("input_ids", "attention_mask", "label_ids")}
    for kind in ("in", "out"):
        codes = [part[f"audio_{kind}_ids"] for part in parts]
        begins = torch.tensor([0, *(one.shape[1] for one in codes)]).cumsum(0)
        starts = [part[f"audio_{kind}_ids_start"] + begin for part, begin in zip(parts, begins, strict=False)]
        out |= {f"audio_{kind}_ids": torch.cat(codes, dim=1), f"audio_{kind}_ids_start": torch.cat(starts)}
    labels = torch.cat([part["label_audio_ids"] for part in parts], dim=1)
    groups = torch.cat([part["audio_out_ids_start_group_loc"] + n for n, part in enumerate(parts)])
    return {**out, "label_audio_ids": labels, "audio_out_ids_start_group_loc": groups}


@REORDERED
@given(higgs_cases, st.randoms(use_true_random=False))
def test_the_order_of_samples_changes_no_supervision(case, random):
    model, batch, view = prepared(case)
    assume(len(case.samples) > 1)
    assume(any(bool(e.trained.any()) for e in expectations(view)))
    batch["label_ids"][:, 0] = IGNORE_INDEX
    parts = ADAPTER.split(model, batch)
    assume(all("label_audio_ids" in part for part in parts))
    shuffled = joined(random.sample(parts, len(parts)))
    assert supervision_by_token(model, shuffled) == pytest.approx(supervision_by_token(model, batch))


def mean_of_the_step(model, batch, num_items_in_batch):
    """The token mean of all micro-batches of a step, over text."""
    out = model(**batch)
    labels = out.expanded_labels[:, 1:].flatten()
    return F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels, reduction="sum") / num_items_in_batch


def mean_of_each(model, batch):
    """Each micro-batch has a mean of its own."""
    out = model(**batch)
    return F.cross_entropy(out.logits[:, :-1].flatten(0, 1), out.expanded_labels[:, 1:].flatten())


def accumulated(case, loss):
    model, batch, _ = prepared(case)
    assume(len(case.samples) > 1)
    batch["label_ids"][:, 0] = IGNORE_INDEX  # as above
    text = expectations(ADAPTER.view(model, batch))[0]
    counts = [int((text.trained & (text.stream.sample == n)).sum()) for n in range(len(case.samples))]
    assume(min(counts) > 0)
    with quiet_engine():
        found = check_reduction(model, ADAPTER, batch, loss, "token-mean", len(case.samples), Options()).findings
    return {f.code for f in found}, len(set(counts)) > 1


@FEWER
@given(higgs_cases)
def test_accumulation_keeps_the_weights_of_a_mean_over_the_step(case):
    assert accumulated(case, mean_of_the_step)[0] == set()


@FEWER
@given(higgs_cases)
def test_accumulation_of_means_is_refused_where_counts_differ(case):
    codes, differ = accumulated(case, mean_of_each)
    assert codes == ({"LA302"} if differ else set())


@INSIDE
@given(higgs_cases)
def test_the_gradient_of_the_dual_loss_is_what_is_expected_and_lies_inside_its_segments(case):
    model, batch, view = prepared(case)
    assume(any(bool(e.trained.any()) for e in expectations(view)))
    seen = witness(model, ADAPTER, batch, default_loss(ADAPTER, "evidence"), Options())
    assert of_the_loss(seen) == []
    for wanted, got, labels in zip(seen.expected, seen.actual, view.labels, strict=True):
        assert torch.equal(got.target, wanted.target)
        assert (got.weight[got.trained] > 0).all()
        assert_inside(got, labels)
    text = seen.actual[0]
    if bool(text.trained.any()):
        assert float(text.weight.sum()) == pytest.approx(1.0, rel=1e-5)


def assert_inside(one, labels):
    """What is trained lies in one segment with its target, and ends that are labelled are trained."""
    stream, rows = one.stream, torch.nonzero(one.trained).reshape(-1).tolist()
    for row in rows:
        assert stream.segment[row] == stream.segment[row + 1] >= 0  # no border, no padding
        assert labels[row + 1] == stream.ids[row + 1] == one.target[row]  # nothing of a prompt
        assert not stream.filler[row + 1]  # no placeholder, no fill of the delay pattern
    named = [row for row, label in enumerate(labels.tolist()) if label in stream.end_ids and row]
    inside = [row for row in named if stream.segment[row - 1] == stream.segment[row] >= 0]
    assert {row - 1 for row in inside} <= set(rows)
