"""``run`` on audio models with several codebooks: what ``check_loss`` says of them, it says as well."""

import codebook_models as small
import pytest
import torch
import torch.nn.functional as F
from codebook_models import drawn
from families import higgs_batch, higgs_model
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


# -- Kyutai's speech to text: text beside codes that are heard ----------------------------------------


def heard(seed):
    """Ids (B, T, 1 + K), and labels of the text that leave out its beginning."""
    text, codes = drawn(2, 12, high=90, seed=seed), drawn(2, 12, 4, high=63, seed=seed + 10)
    labels = text.clone()
    labels[:, :3] = -100
    return {"input_ids": torch.cat([text[..., None], codes], -1), "labels": labels}


def kyutai_trained(loss):
    model = small.kyutai()
    model.codec_model.requires_grad_(False)
    return watched(lambda: loop(model, loss, [heard(0), heard(1)]))[0]


@pytest.mark.parametrize(("ahead", "code"), [(1, None), (0, "LA102"), (2, "LA103")])
def test_kyutai_with_labels_that_the_script_keeps(ahead, code):
    def by_hand(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits[:, : 12 - ahead].mT, batch["labels"][:, ahead:])

    report = kyutai_trained(by_hand)
    assert told(report) == ({(code, "text")} if code else set())
    assert report.streams["text"]["expected"] == 18 * 2  # of labels that the model was never given
    assert report.verdict == ("fail" if code else "pass")


@pytest.mark.parametrize(("moved", "code"), [(0, None), (1, "LA103")])
def test_kyutai_with_the_loss_of_its_own(moved, code):
    def own(model, batch):
        labels = F.pad(batch["labels"][:, moved:], (0, moved), value=-100)
        return model(input_ids=batch["input_ids"], labels=labels).loss

    assert told(kyutai_trained(own)) == ({(code, "text")} if code else set())


# -- Moshi: text, and a depth decoder that is trained on codes as they are labelled --------------------


def dialogue(seed, *, late=True, delayed=True):
    """Codes that are moved one step, all but the first codebook delayed: what the labels stand against is right."""
    text, codes = drawn(2, 7, high=90, seed=seed), drawn(2, 4, 7, high=63, seed=seed + 10)
    read = torch.cat([codes[:, :1], F.pad(codes[:, 1:, :-1], (1, 0), value=64)], dim=1) if delayed else codes
    return {
        "input_ids": text,
        "moshi_audio_codes": F.pad(read[..., :-1], (1, 0), value=64) if late else read,
        "user_audio_codes": drawn(2, 4, 7, high=63, seed=seed + 20),
        "text_labels": text,
        "audio_labels": codes,
    }


@pytest.mark.parametrize(
    ("form", "codes"),
    [({}, set()), ({"late": False}, {"LA102"}), ({"delayed": False}, {"LA102"})],
    ids=["right", "not moved", "not delayed"],
)
def test_moshi_is_read_where_its_depth_decoder_is_sure(form, codes):
    model = small.moshi()  # made with weights so large that most rows have one likely code
    model.audio_encoder.requires_grad_(False)
    report, _ = watched(lambda: loop(model, own_loss, [dialogue(0, **form), dialogue(1, **form)]))
    assert {f.code for f in report.findings} == codes
    assert report.verdict == ("fail" if codes else "pass")


# -- transformers' Higgs v2: its own loss on codes, the script's on text -------------------------------


@pytest.mark.deep
@pytest.mark.higgs_v2
@pytest.mark.parametrize(("ahead", "code"), [(1, None), (0, "LA102"), (2, "LA103")])
def test_higgs_v2_with_labels_of_text_that_the_script_keeps(ahead, code):
    model = higgs_model("higgs_v2", hidden=32, layers=1)
    batch = higgs_batch(model, samples=1)

    def by_hand(model, batch):
        out = model(**{key: value for key, value in batch.items() if key != "labels"}, output_hidden_states=True)
        logits = model.text_lm_head(out.hidden_states[-1])
        return out.loss + F.cross_entropy(logits[:, : logits.shape[1] - ahead].mT, batch["labels"][:, ahead:])

    report = watched(lambda: loop(model, by_hand, [batch, batch]))[0]
    assert told(report) == ({(code, "text")} if code else set())
    assert report.streams["text"]["expected"] == 2 * int((batch["labels"] >= 0).sum())  # the model was given none
    assert report.verdict == ("fail" if code else "pass")
