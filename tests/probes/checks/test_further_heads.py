"""Heads that predict further ahead, named or found beside the main one: each held to its own distance."""

import pytest
import torch
from further_models import (
    IDS,
    LABELS,
    SHORTER,
    Draft,
    Eagle,
    Medusa,
    Mtp,
    Shorter,
    ce,
    draft_loss,
    eagle_loss,
    later,
    medusa_loss,
    mtp_loss,
)

from probes import check_loss
from probes.checks.preflight import Plan, preflight
from probes.models import adapter_for

pytestmark = pytest.mark.usefixtures("no_lines")

BATCH = {"input_ids": IDS, "labels": LABELS}


def errors(report):
    return [(f.code, f.stream) for f in report.findings if f.is_error]


@pytest.mark.parametrize("heads", [(), ("main.lm_head", "mtp_head")], ids=["found", "named"])
@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("right", []),
        ("shifted once more", ["LA104"]),
        ("prompt trained", ["LA202"]),
        ("mask one ahead", ["LA201", "LA202"]),
        ("wraps round", ["LA105"]),
    ],
)
def test_a_head_of_its_own_for_the_token_after_the_next(heads, kind, codes):
    report = check_loss(Mtp(), BATCH, mtp_loss(kind), heads=heads)
    assert errors(report) == [(code, "head[mtp_head]") for code in codes]
    assert report.verdict == ("fail" if codes else "pass")
    assert report.streams["text"]["offsets"] == {"1": 32}
    assert report.streams["head[mtp_head]"]["ahead"] == 2


@pytest.mark.parametrize(("tied", "name", "kind", "found"), SHORTER)
def test_a_sequence_that_is_cut_before_the_last_token(tied, name, kind, found):
    report = check_loss(Shorter(tied=tied), BATCH, mtp_loss(kind), replay=False)
    assert errors(report) == [(code, name) for code in found]
    assert report.streams[name]["ahead"] == 2


def test_the_weight_of_the_extra_loss_is_stated():
    report = check_loss(Mtp(), BATCH, mtp_loss("right"))
    assert "head[mtp_head] predicts 2 ahead; its loss weighs 0.3, that of text 1" in report.notes
    assert report.streams["head[mtp_head]"]["offsets"] == {"2": 32}
    assert any("as far ahead as its head predicts" in check.detail for check in report.checks)


def test_a_row_is_told_as_its_user_counts_it():
    found = check_loss(Mtp(), BATCH, mtp_loss("shifted once more")).findings[0]
    assert (
        found.message == f"{found.count} rows of head[mtp_head] are trained +3 ahead, where its head is to predict +2"
    )
    assert all(example.source - example.row == 3 for example in found.examples)


def test_a_head_that_has_read_its_target():
    assert errors(check_loss(Mtp(), BATCH, mtp_loss("one short"))) == [("LA401", "text")]


@pytest.mark.parametrize("heads", [(), ("base.lm_head", "medusa.0.2", "medusa.1.2")], ids=["found", "named"])
@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("right", []),
        ("base not shifted", [("LA102", "text")]),
        ("heads one short", [("LA104", "head[medusa.0.2]"), ("LA104", "head[medusa.1.2]")]),
    ],
)
def test_medusa(heads, kind, codes):
    assert errors(check_loss(Medusa(), BATCH, medusa_loss(kind), heads=heads)) == codes


def test_packed_documents_end_at_their_borders_for_every_head():
    places = torch.arange(12).repeat(2)[None].expand(2, -1)  # two documents of 12 in each sample
    batch = {"input_ids": IDS, "position_ids": places, "labels": IDS}
    crossing = check_loss(Medusa(), batch, medusa_loss("right"), replay=False)
    assert {code for code, _ in errors(crossing)} == {"LA204"}
    assert {stream for _, stream in errors(crossing)} == {"text", "head[medusa.0.2]", "head[medusa.1.2]"}

    def inside(model, batch):
        """No target that lies in another document than its row."""
        base, heads = model(batch["input_ids"])
        return sum(
            torch.nn.functional.cross_entropy(one.unflatten(1, (2, 12))[:, :, :-far].flatten(0, 2), target)
            for far, one in enumerate((base, *heads), 1)
            for target in [batch["labels"].unflatten(1, (2, 12))[:, :, far:].flatten()]
        )

    assert errors(check_loss(Medusa(), batch, inside, replay=False)) == []


@pytest.mark.parametrize(("far", "codes"), [(2, []), (3, [("LA104", "text")])])
def test_a_draft_head_that_a_frozen_model_feeds(far, codes):
    """EAGLE: features of a frozen model and the next token give the token after it."""
    assert errors(check_loss(Draft(), BATCH, draft_loss(far))) == codes


@pytest.mark.parametrize(
    ("far", "whole", "codes"),
    [(2, False, []), (1, False, [("LA102", "text")]), (3, False, [("LA103", "text")]), (2, True, [("LA202", "text")])],
)
def test_a_draft_of_a_model_that_runs_without_gradients(far, whole, codes):
    """The rows of the draft are fewer than the ids: they are followed, and held to the labels of the batch."""
    assert errors(check_loss(Eagle(), BATCH, eagle_loss(far, whole=whole), replay=False)) == codes


@pytest.mark.parametrize(("far", "verdict"), [(2, "incomplete"), (1, "fail"), (3, "fail")])
def test_soft_targets_of_a_draft_are_no_constant_loss_and_judged_where_it_is_declared(far, verdict):
    report = check_loss(Eagle(), BATCH, loss := eagle_loss(far, soft=True), replay=False)
    assert (report.verdict, [one.code for one in report.findings]) == ("incomplete", ["LA801"])
    draft = {"draft": {"head": "draft_head", "ids": "input_ids", "labels": "labels"}}
    assert check_loss(Eagle(), BATCH, loss, streams=draft, replay=False).verdict == verdict


def test_soft_targets_of_a_draft_head_cannot_be_read():
    streams = {"draft": {"head": "draft_head", "ids": "input_ids", "labels": "labels", "ahead": 2}}
    report = check_loss(Draft(), BATCH, draft_loss(2, soft=True), streams=streams)
    assert [f.code for f in report.findings] == ["LA802"]
    assert check_loss(Draft(), BATCH, draft_loss(2), streams=streams).verdict == "pass"


@pytest.mark.parametrize(("kind", "verdict"), [("right", "pass"), ("shifted once more", "fail")])
def test_preflight_judges_them_too(kind, verdict):
    model = Mtp()
    report = preflight(Plan(model, adapter_for(model), BATCH, mtp_loss(kind)))
    assert report.verdict == verdict
    assert report.streams["head[mtp_head]"]["ahead"] == 2


def test_rows_are_told_with_what_they_have_read():
    rows = check_loss(Mtp(), BATCH, mtp_loss("right")).rows()
    told = [one for one in rows if one.stream == "head[mtp_head]" and one.sample == 0]
    assert [one.token for one in told] == IDS[0].tolist()
    assert [one.row for one in told if one.verdict == "right"] == list(range(6, 22))
    assert all(one.target == IDS[0, one.row + 2] and one.offset == 2 for one in told if one.verdict == "right")
    assert not any(one.padding for one in told)


@pytest.mark.parametrize("far", [2, 3])
def test_an_end_that_a_head_further_ahead_never_predicts(far):
    """The main head learns to stop; the one that looks ahead has its ends masked by a trainer of its own."""
    ids = IDS.clone()
    ids[:, [13, 23]] = 2  # the end of two turns
    batch = {"input_ids": ids, "labels": LABELS.masked_scatter(LABELS != -100, ids[LABELS != -100])}

    def loss(model, batch):
        base, heads = model(batch["input_ids"])
        targets = [later(batch["labels"], 1), later(batch["labels"], 2), later(batch["labels"], 3)]
        targets[far - 1] = targets[far - 1].masked_fill(targets[far - 1] == 2, -100)
        return sum(ce(one, target) for one, target in zip((base, *heads), targets, strict=True))

    assert errors(check_loss(Medusa(), batch, medusa_loss("right"), replay=False)) == []
    assert errors(check_loss(Medusa(), batch, loss, replay=False)) == [("LA203", f"head[medusa.{far - 2}.2]")]
