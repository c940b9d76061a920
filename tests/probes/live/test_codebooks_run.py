"""``run`` on audio models with several codebooks: what ``check_loss`` says of them, it says as well."""

import pytest
import torch
import torch.nn.functional as F
from jury_codes import CODES
from live_runs import loop, watched

from probes import check_loss

FAMILIES = [name for name in CODES if "Higgs" not in name]
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # codecs of older versions


def made(name):
    model, batch = CODES[name]()
    for part in ("codec_model", "audio_encoder"):  # as they are trained: the codec is run without gradients
        if hasattr(model, part):
            getattr(model, part).requires_grad_(False)
    return model, batch


def own_loss(model, batch):
    return model(**batch).loss


def told(report):
    return {(f.code, f.stream) for f in report.findings}


def offsets(report):
    return {name: set(stream.get("offsets", {})) for name, stream in report.streams.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.deep if "Moshi" in name else ()) for name in FAMILIES]
)
def test_their_own_losses(name):
    model, batch = made(name)
    stated = check_loss(model, batch, own_loss, replay=False)
    seen, _ = watched(lambda: loop(model, own_loss, [batch, batch]))
    assert told(seen) == told(stated)
    assert list(offsets(seen)) == list(offsets(stated))
    assert all(offsets(seen).values())


@pytest.mark.deep
def test_csm_later_by_a_frame_in_the_backbone():
    def late(model, batch):
        out = model(**batch, output_hidden_states=True)
        merged = model._merge_input_ids_with_input_values(
            batch["input_ids"], batch["input_values"], batch["input_values_cutoffs"], batch["labels"]
        )
        labels = merged["labels"][:, 2:, 0]
        return F.cross_entropy(out.logits[:, :-2].flatten(0, 1), labels.flatten()) + out.depth_decoder_loss

    model, batch = made("CsmForConditionalGeneration")
    assert ("LA103", "audio[0]") in told(watched(lambda: loop(model, late, [batch, batch]))[0])


def test_dia_codebooks_out_of_order():
    model, batch = made("DiaForConditionalGeneration")
    size, length = batch["decoder_input_ids"].shape[:2]
    turned = batch["labels"].reshape(size, 9, length).roll(1, dims=1).reshape(size * 9, length)
    report, _ = watched(lambda: loop(model, own_loss, [{**batch, "labels": turned}] * 2))
    assert ("LA106", "audio") in told(report)


@pytest.mark.deep
def test_codes_that_are_made_for_the_watcher_leave_the_training_as_it_was():
    weights = []
    for seen in (True, False):
        model, batch = made("CsmForConditionalGeneration")
        torch.manual_seed(0)
        if seen:
            watched(lambda: loop(model, own_loss, [batch, batch]))  # noqa: B023 - called at once
        else:
            loop(model, own_loss, [batch, batch])
        weights.append([weight.detach().clone() for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
