"""Audio models with several codebooks: their own losses, right or known to be wrong, and planted faults."""

import codebook_models as small
import pytest
import torch
import torch.nn.functional as F
from codebook_models import B, T, drawn
from live_runs import watched

from alignment import InputError
from loss_align import main
from probes import check_loss, register
from probes.batches.codebook_batch import barcoded_codes
from probes.checks.cut_off import cut_off
from probes.checks.preflight import Plan, preflight
from probes.fuzzing.cases import parse_case
from probes.fuzzing.fuzz import Contract, run_case
from probes.models import adapter_for, registry
from probes.models.checkpoint import load_causal_lm
from probes.replay.calls import Scene


def own_loss(model, batch):
    return model(**batch).loss


def said(report):
    return {(f.code, f.stream, f.severity) for f in report.findings}


def errors(report):
    return {(f.code, f.stream) for f in report.findings if f.is_error}


# -- MusicGen ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def musicgen():
    return small.musicgen()


@pytest.fixture(scope="module")
def song(musicgen):
    labels = drawn(B, T, 4, high=98)
    labels[1, -2:] = -100
    return {"input_ids": drawn(B, 5, high=40), "labels": labels}


def test_musicgen_with_labels_alone_predicts_the_next_code(musicgen, song):
    report = check_loss(musicgen, song, own_loss)
    assert said(report) == set()
    assert [report.streams[f"audio[{k}]"]["expected"] for k in range(4)] == [12] * 4


def test_musicgen_with_ids_and_labels_copies_as_its_documentation_offers():
    model, codes = small.musicgen_decoder(), drawn(B, 4, T, high=98)
    batch = {"input_ids": codes.reshape(B * 4, T), "labels": codes.transpose(1, 2)}
    assert said(check_loss(model, batch, own_loss)) == {("LA102", "audio", "error")}

    def shifted(model, batch):
        logits = model(batch["input_ids"]).logits.unflatten(0, (B, 4))  # (B, K, T, V)
        labels = batch["labels"].transpose(1, 2)
        return F.cross_entropy(logits[:, :, :-1].flatten(0, 2), labels[:, :, 1:].flatten())

    assert said(check_loss(model, batch, shifted)) == set()


def test_musicgen_labels_shifted_once_more(musicgen, song):
    def twice(model, batch):
        codes = batch["labels"]
        ids = F.pad(codes[:, :-1].clamp(min=0), (0, 0, 1, 0), value=99).transpose(1, 2).reshape(-1, T)
        labels = F.pad(codes[:, 1:], (0, 0, 0, 1), value=-100)
        return model(input_ids=batch["input_ids"], decoder_input_ids=ids, labels=labels).loss

    assert said(check_loss(musicgen, song, twice)) == {("LA103", "audio", "error")}


def test_musicgen_codebooks_out_of_order(musicgen, song):
    def turned(model, batch):
        ids = F.pad(batch["labels"][:, :-1].clamp(min=0), (0, 0, 1, 0), value=99).transpose(1, 2).reshape(-1, T)
        return model(**{**batch, "decoder_input_ids": ids, "labels": batch["labels"].roll(1, dims=-1)}).loss

    assert said(check_loss(musicgen, song, turned)) == {("LA106", "audio", "error")}


def test_musicgen_is_told_the_targets_of_every_codebook(musicgen, song):
    def loss(model, batch, num_items, num_items_in_batch):
        counts.append(({name: int(n) for name, n in num_items.items()}, int(num_items_in_batch)))
        return own_loss(model, batch)

    counts = []
    check_loss(musicgen, song, loss)
    assert counts[0] == ({f"audio[{k}]": 12 for k in range(4)}, 48)


# -- Dia --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dia():
    return small.dia()


@pytest.fixture(scope="module")
def speech():
    """As the processor makes it: delayed codes with bos in front, labels cut from them one step later."""
    codes = drawn(B, T + 1, 9, high=1020)
    codes[:, 0] = 1026
    labels = codes[:, 1:].transpose(1, 2).reshape(B * 9, T)
    return {"input_ids": drawn(B, 5, high=60), "decoder_input_ids": codes[:, :-1], "labels": labels}


def test_dia_predicts_the_next_code(dia, speech):
    report = check_loss(dia, speech, own_loss)
    assert said(report) == set()
    assert len(report.streams) == 9


def test_dia_knows_its_special_codes_in_every_version(dia):
    adapter = adapter_for(dia)
    assert [(one.fillers, one.ends) for one in adapter.declared] == [((1026, 1025), (1024,))] * 9


def test_dia_ids_may_be_flat(dia, speech):
    """(B * K, T), as documented; the model itself fails on them in 5.23.0."""
    adapter, ids = adapter_for(dia), speech["decoder_input_ids"]
    flat = {**speech, "decoder_input_ids": ids.transpose(1, 2).reshape(B * 9, T)}
    one, other = adapter.view(dia, speech), adapter.view(dia, flat)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(one.streams, other.streams, strict=True))
    parts = adapter.split(dia, flat)
    assert [len(part["labels"]) for part in parts] == [len(part["decoder_input_ids"]) for part in parts] == [9, 9]


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (lambda b: b["decoder_input_ids"].transpose(1, 2).reshape(B * 9, T), "LA102"),
        (lambda b: F.pad(b["labels"][:, 1:], (0, 1), value=-100), "LA103"),
        (lambda b: b["labels"].reshape(B, 9, T).roll(1, dims=1).reshape(B * 9, T), "LA106"),
    ],
    ids=["copy", "double shift", "codebooks"],
)
def test_dia_planted(dia, speech, labels, code):
    report = check_loss(dia, speech, lambda model, batch: model(**{**batch, "labels": labels(batch)}).loss)
    assert (code, "audio", "error") in said(report)
    assert {f.code for f in report.findings} <= {code, "LA202"}  # a copy trains the begin too


def test_dia_labels_that_were_not_cut_are_named(dia, speech):
    longer = {**speech, "labels": F.pad(speech["labels"], (1, 0), value=1)}
    with pytest.raises(InputError, match="cut both alike"):
        check_loss(dia, longer, own_loss)


def test_streams_that_a_user_registers_go_before_ours(dia, speech, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    book = {"head": "logits_dense", "ids": "decoder_input_ids[..., {k}]", "labels": "labels[{k}::9]", "fillers": 1026}
    register(type(dia), lambda model: {"unit[{k}]": {**book, "count": model.config.decoder_config.num_channels}})
    report = check_loss(dia, speech, own_loss)
    assert (report.verdict, list(report.streams)) == ("pass", [f"unit[{k}]" for k in range(9)])
    copied = {**speech, "labels": speech["decoder_input_ids"].transpose(1, 2).reshape(B * 9, T)}
    assert "LA102" in {f.code for f in check_loss(dia, copied, own_loss).findings}


# -- CSM --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def csm():
    return small.csm()


@pytest.fixture(scope="module")
def talk(csm):
    return small.csm_batch(csm)


def test_csm_backbone_and_depth_decoder_predict_the_next_frame(csm, talk):
    report = check_loss(csm, talk, own_loss)
    assert errors(report) == set()
    assert {f.code for f in report.findings} == {"LA303"}  # half of its loss is the first codebook, by design
    assert {name: stream["offsets"] for name, stream in report.streams.items()} == {
        f"audio[{k}]": {"1": 7} for k in range(4)
    }


def test_csm_frames_for_the_backbone_alone(csm, talk):
    labels = talk["labels"].clone()
    labels[0, 3:5] = -101
    report = check_loss(csm, {**talk, "labels": labels}, own_loss)
    assert errors(report) == set()
    assert [report.streams[f"audio[{k}]"]["expected"] for k in range(4)] == [7, 5, 5, 5]


def test_csm_trains_audio_that_is_labelled_to_be_ignored(csm, talk):
    labels = talk["labels"].clone()
    labels[0, 3:5] = -100  # a voice prompt
    assert errors(check_loss(csm, {**talk, "labels": labels}, own_loss)) == {("LA202", "audio")}


def backbone(model, batch, pick):
    merged = model._merge_input_ids_with_input_values(
        batch["input_ids"], batch["input_values"], batch["input_values_cutoffs"], batch["labels"]
    )
    hidden = model.backbone_model(
        inputs_embeds=merged["inputs_embeds"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    logits, labels = pick(model.lm_head(hidden), merged["labels"])
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize(
    ("pick", "code"),
    [
        (lambda x, y: (x[:, :-1], y[:, 1:, 0]), None),
        (lambda x, y: (x, y[..., 0]), "LA102"),
        (lambda x, y: (x[:, :-2], y[:, 2:, 0]), "LA103"),
        (lambda x, y: (x[:, :-1], y[:, 1:, 2]), "LA106"),
    ],
    ids=["right", "copy", "double shift", "codebook"],
)
def test_csm_backbone_planted(csm, talk, pick, code):
    found = {f.code for f in check_loss(csm, talk, lambda m, b: backbone(m, b, pick)).findings}
    # the loss takes waveforms apart by itself, and a batch that is run again holds codes in their place
    blind = set() if code else {"LA805"}  # a stream-wide error says why
    assert found == blind | ({"LA205"} if code != "LA106" else set()) | ({code} if code else set())


def test_a_codec_without_a_gradient_is_not_cut_off(csm):
    names = [name for name, _ in csm.named_parameters() if name.startswith("codec_model.")]
    found, notes = cut_off(Scene(csm, adapter_for(csm), None, own_loss), {}, (), names, len(names))
    assert (found, len(notes)) == ([], 1)
    assert notes[0].startswith(f"{len(names)} parameters of MimiModel, which makes the codes")


@pytest.mark.deep
def test_csm_trained_with_its_codec_in_the_optimizer_is_right_and_the_codec_a_note(csm, talk):
    def train():
        model = small.csm()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(2):
            own_loss(model, talk).backward()
            optimizer.step()
            optimizer.zero_grad()

    report, _ = watched(train)
    assert (report.verdict, errors(report)) == ("pass", set())
    assert any("of MimiModel, which makes the codes, belong to no loss on them" in note for note in report.notes)


# -- Moshi ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moshi():
    return small.moshi()


@pytest.fixture(scope="module")
def dialogue():
    text, codes = drawn(B, T, high=90), drawn(B, 4, T, high=63)
    return {
        "input_ids": text,
        "moshi_audio_codes": codes,
        "user_audio_codes": drawn(B, 4, T, high=63, seed=1),
        "text_labels": text,
        "audio_labels": codes,
    }


def test_moshi_with_codes_as_labels_repeats_what_it_has_read(moshi, dialogue):
    report = check_loss(moshi, dialogue, own_loss)
    assert ("LA102", "audio[0]", "error") in said(report)
    assert ("LA104", "audio[1], audio[2], audio[3]", "error") in said(report)
    assert report.streams["text"]["offsets"] == {"1": 12}


def test_moshi_with_codes_delayed_and_moved_by_the_caller_is_right(moshi, dialogue):
    labels = dialogue["audio_labels"]
    delayed = torch.cat([labels[:, :1], F.pad(labels[:, 1:, :-1], (1, 0), value=64)], dim=1)
    moved = F.pad(delayed[..., :-1], (1, 0), value=64)
    report = check_loss(moshi, {**dialogue, "moshi_audio_codes": moved}, own_loss)
    assert errors(report) == set()
    assert report.streams["audio[0]"]["expected"] == 14
    assert report.streams["audio[3]"]["expected"] == 12


# -- Kyutai's speech to text ------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "code"), [(1, None), (0, "LA102"), (2, "LA103")])
def test_text_beside_codes_that_are_heard_predicts_the_next_token(shift, code):
    model = small.kyutai()
    batch = barcoded_codes(adapter_for(model), model, 2, 12, seed=0)

    def loss(model, batch):
        logits = model(batch["input_ids"]).logits
        return F.cross_entropy(logits[:, : 12 - shift].mT, batch["labels"][:, shift:])

    report = check_loss(model, batch, loss)
    assert ({f.code for f in report.findings}, list(report.streams)) == ({code} - {None}, ["text"])


# -- the commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "code", "streams"),
    [("musicgen", None, 4), ("musicgen_decoder", "LA102", 4), ("dia", None, 9), ("csm", None, 4), ("moshi", None, 5)],
)
def test_preflight_makes_a_batch_of_codes(family, code, streams):
    model = getattr(small, family)()
    adapter = adapter_for(model)
    report = preflight(Plan(model, adapter, barcoded_codes(adapter, model, 2, 12, seed=0)))
    assert {f.code for f in report.findings if f.is_error} == ({code} if code else set())
    assert len(report.streams) == streams
    told = {check.id: check.status for check in report.checks}
    assert told["pairing-audio"] == ("fail" if code else "pass")
    assert (told["text-length"], told["decode"]) == ("skip", "skip")


def test_a_checkpoint_of_a_kind_that_has_no_language_model_is_its_own_class(tmp_path, csm):
    csm.save_pretrained(tmp_path / "csm")
    model, missing = load_causal_lm(tmp_path / "csm")
    assert (type(model).__name__, missing) == ("CsmForConditionalGeneration", ())


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # codecs of older versions, as they are loaded
def test_the_commands_take_them(tmp_path, capsys):
    small.musicgen().save_pretrained(tmp_path / "model")
    model = ["--model", str(tmp_path / "model")]
    assert main(["record", *model, "--length", "12", "--out", str(tmp_path / "record.json")]) == 0
    assert main(["explain", *model, "--length", "12", "--stream", "audio[2]"]) == 0
    assert "audio[2]" in capsys.readouterr().out
    assert main(["preflight", *model, "--data", "chat.jsonl"]) == 2
    assert "give transformers.Musicgen a batch with --batch FILE.py:FUNC" in capsys.readouterr().err


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_fuzz_draws_frames_for_them(tmp_path):
    small.musicgen().save_pretrained(tmp_path / "model")
    assert main(["fuzz", "--model", str(tmp_path / "model"), "--examples", "5"]) == 0


def test_fuzz_puts_a_second_frame_behind_one_alone():
    """The text beside a single frame has no target, and Moshi's mean over none is no number."""
    model = small.moshi()
    _, seen, findings = run_case(Contract(model, adapter_for(model), own_loss), parse_case("t1a"))
    assert (findings, len(seen.actual)) == ([], 5)


def test_musicgen_whose_configuration_says_no_beginning_is_refused_in_a_sentence():
    model = small.musicgen()
    model.config.decoder.decoder_start_token_id = None
    song = {"input_ids": drawn(B, 5, high=40), "labels": drawn(B, T, 4, high=98)}
    with pytest.raises(InputError, match=r"set model\.config\.decoder\.decoder_start_token_id"):
        check_loss(model, song, own_loss)
