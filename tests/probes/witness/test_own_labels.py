"""Labels that no barcode renames, or only by a known convention: right programs of repeated tokens are silent."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from probes import check_loss

VOCABULARY = 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))


@pytest.fixture(scope="module")
def seq2seq():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **sizes, **ids))


def repeated(seed, kinds=13, length=24):
    return torch.randint(3, kinds, (2, length), generator=torch.Generator().manual_seed(seed))


def told(model, batch, loss, **options):
    report = check_loss(model, batch, loss, replay=False, **options)
    return [one.code for one in report.findings], report


def paired(shift, key):
    """A loss that pairs row t with its own key's token at t + shift."""

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits[:, : logits.shape[1] - shift].flatten(0, 1), batch[key][:, shift:].flatten())

    return loss


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_key_that_no_barcode_renames_prove_nothing(model, seed):
    ids = repeated(seed)
    codes, report = told(model, {"input_ids": ids, "wanted": ids.clone()}, paired(1, "wanted"))
    assert codes == []
    assert report.streams["text"]["sources"] == "inferred"


@pytest.mark.parametrize(("shift", "code"), [(0, "LA102"), (2, "LA103")])
def test_and_a_wrong_offset_shows_all_the_same(model, shift, code):
    ids = repeated(0, kinds=60)
    assert told(model, {"input_ids": ids, "wanted": ids.clone()}, paired(shift, "wanted"))[0] == [code]


def test_windows_under_a_key_of_ones_own_cross_no_border(model):
    data = repeated(3, 60, 49)[0]
    ids, wanted = data[:-1].view(4, 12), data[1:].view(4, 12)
    assert told(model, {"input_ids": ids, "wanted": wanted}, paired(0, "wanted"))[0] == []


def test_one_repeated_token_is_read_by_the_convention_that_its_key_names(model):
    ids = torch.full((2, 12), 7)
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], 1)
    batch = {"input_ids": ids, "shift_labels": labels}
    assert told(model, batch, paired(0, "shift_labels"), labels="pre_shifted")[0] == []


def test_and_the_copy_of_one_repeated_token_is_one(model):
    ids = torch.full((2, 12), 7)
    assert told(model, {"input_ids": ids, "labels": ids.clone()}, paired(0, "labels"))[0] == ["LA102"]


def test_decoder_labels_that_are_all_one_token_stand_beside_the_ids_before_them(seq2seq):
    batch = {"input_ids": repeated(0), "labels": torch.full((2, 9), 7)}
    assert told(seq2seq, batch, lambda model, batch: model(**batch).loss)[0] == []


@pytest.mark.parametrize("seed", range(3))
def test_decoder_labels_that_are_shifted_again_are_one_double_shift_though_tokens_repeat(seq2seq, seed):
    def again(model, batch):
        logits = model(**batch).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    batch = {"input_ids": repeated(0), "labels": repeated(seed, kinds=9, length=19)}
    assert told(seq2seq, batch, again)[0] == ["LA103"]


def test_a_vocabulary_off_by_one_is_no_shift(model):
    def cut(model, batch):
        return F.cross_entropy(
            model(input_ids=batch["input_ids"]).logits[..., 1:].flatten(0, 1), batch["labels"].flatten()
        )

    ids = repeated(4, kinds=8)
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], 1)
    assert not {"LA102", "LA103", "LA104"} & {*told(model, {"input_ids": ids, "labels": labels}, cut)[0]}
