"""The adapter for any model with an output head: classes, heads, streams, batches."""

import pytest
import torch
import transformers
from lm_batches import batch_for, text_batch
from lm_tiny import LENGTH, OLD, VOCAB, tiny_model
from torch import nn

from alignment import InputError
from probes.errors import UsageError
from probes.models import adapter_for
from probes.models.causal_lm import CausalLMAdapter, load_causal_lm
from probes.witness.witness import witness


def own_loss(model, batch):
    return model(**batch).loss


def watch(model, batch, loss=own_loss, heads=()):
    return witness(model, CausalLMAdapter(model, heads), batch, loss)


def codes(seen):
    return tuple(finding.code for finding in seen.findings)


def offsets(seen, stream=0):
    """The offsets of all trained rows but those that end a segment: nothing follows them."""
    actual = seen.actual[stream]
    rows = actual.trained & actual.stream.follows() & (actual.source >= 0)
    return sorted(set(actual.offset[rows].tolist()))


@pytest.fixture(scope="module")
def llama():
    return tiny_model("LlamaForCausalLM")


# -- encoder and decoder -----------------------------------------------------------------------------


@pytest.mark.skipif(OLD, reason="Moonshine came with transformers 4.48")
def test_a_second_shift_behind_right_shifted_decoder_ids_is_a_double_shift():
    """As the Moonshine, Florence2 and VisionEncoderDecoder of transformers 4.57 did."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    def loss(model, batch):
        return ForCausalLMLoss(model(**batch).logits, batch["labels"], VOCAB)

    seen = watch(tiny_model("MoonshineForConditionalGeneration"), batch_for("MoonshineForConditionalGeneration"), loss)
    assert codes(seen) == ("LA103",)
    assert offsets(seen) == [2]


def test_an_encoder_decoder_batch_as_a_collator_makes_it():
    """Padded labels that all end in the same token, which starts the decoder too."""
    batch = text_batch()
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, -1] = 2
    batch["labels"][0, 15] = 2
    batch["labels"][0, 16:] = -100
    model = tiny_model("BartForConditionalGeneration", decoder_start_token_id=2)
    assert codes(watch(model, batch)) == ()
    seen = watch(model, batch, lambda m, b: nn.functional.cross_entropy(m(**b).logits[:, :-1].mT, b["labels"][:, 1:]))
    assert codes(seen) == ("LA103",)


def test_decoder_ids_given_beside_the_labels():
    batch = text_batch()
    ids = batch["labels"].new_zeros(2, LENGTH)  # the id that its decoder begins with
    ids[:, 1:] = batch["input_ids"][:, :-1]
    batch = {**batch, "decoder_input_ids": ids, "labels": batch["input_ids"]}
    assert codes(watch(tiny_model("T5ForConditionalGeneration"), batch)) == ()
    batch["decoder_input_ids"] = batch["labels"]  # not shifted: every label is the token just read
    assert codes(watch(tiny_model("T5ForConditionalGeneration"), batch)) == ("LA102",)


# -- heads ------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A user's own module: ids under a name of its own, two heads."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.first = nn.Linear(16, VOCAB)
        self.second = nn.Linear(16, VOCAB)
        self.small = nn.Linear(16, 10)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        return self.first(hidden), self.second(hidden)


def two_heads(shift):
    def loss(model, batch):
        first, second = model(batch["input_ids"])
        labels = batch["labels"]
        one = nn.functional.cross_entropy(first[:, :-1].mT, labels[:, 1:])
        return one + nn.functional.cross_entropy(second[:, : LENGTH - shift].mT, labels[:, shift:])

    return loss


@pytest.mark.parametrize(("shift", "expected"), [(1, ()), (2, ("LA103",)), (0, ("LA102",))])
def test_heads_of_a_plain_module(shift, expected):
    seen = watch(Plain(), text_batch(), two_heads(shift), heads=("first", "second"))
    assert codes(seen) == expected
    assert [stream.name for stream in seen.view.streams] == ["text", "head[second]"]
    assert all(finding.stream == "head[second]" for finding in seen.findings)
    assert offsets(seen, 1) == [shift]


def test_inputs_cut_by_the_trainer_of_a_plain_module():
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["input_ids"][:, :-1])[0].mT, batch["labels"][:, 1:])

    assert codes(watch(Plain(), text_batch(), loss, heads=("first",))) == ()


BAD_HEADS = [
    pytest.param(("frist",), "--head frist: Plain has no such module; did you mean first?", id="misspelt"),
    pytest.param(("",), "no such module", id="empty"),
    pytest.param(("embed",), "a Embedding is no output head", id="embedding"),
    pytest.param(("first", "small"), "heads of several vocabularies", id="vocabularies"),
    pytest.param((), "name the layer that gives the logits with --head .*first, second, small", id="none"),
]


@pytest.mark.parametrize(("heads", "message"), BAD_HEADS)
def test_heads_that_cannot_be_used(heads, message):
    with pytest.raises(UsageError, match=message):
        CausalLMAdapter(Plain(), heads)


def test_a_head_below_wrappers_is_found_by_either_path(llama):
    wrapped = nn.Sequential(llama)
    for path in ("lm_head", "0.lm_head"):
        adapter = CausalLMAdapter(wrapped, (path,))
        assert adapter.heads(wrapped, adapter.view(wrapped, text_batch()))[0].module is llama.lm_head


def test_a_layer_that_gives_no_logits_is_refused(llama):
    with pytest.raises(UsageError, match=r"the text head gives 32 scores a row, its vocabulary has 96"):
        watch(llama, text_batch(), heads=("model.layers.1.mlp",))
    with pytest.raises(UsageError, match=r"LlamaModel, gives a BaseModelOutputWithPast and no tensor of logits"):
        watch(llama, text_batch(), heads=("model",))
    with pytest.raises(UsageError, match=r"a LlamaRMSNorm is no output head"):
        watch(llama, text_batch(), heads=("model.norm",))


def test_a_head_per_codebook_has_to_be_named():
    with pytest.raises(UsageError, match=r"has 4 output heads: name one \(--head lm_heads\.0"):
        CausalLMAdapter(tiny_model("MusicgenForCausalLM", num_codebooks=4))


def test_the_adapter_of_any_model_but_higgs(llama):
    adapter = adapter_for(llama)
    assert isinstance(adapter, CausalLMAdapter)
    assert adapter.name == "LlamaForCausalLM"
    assert adapter.body(llama) is llama.model


def test_a_body_and_a_head_that_are_exchanged_are_found_again():
    model, other = tiny_model("LlamaForCausalLM"), tiny_model("LlamaForCausalLM")
    adapter = CausalLMAdapter(model)
    assert (adapter.body(model), adapter.main(model)) == (model.model, model.lm_head)
    model.model, model.lm_head = other.model, other.lm_head
    assert (adapter.body(model), adapter.main(model)) == (other.model, other.lm_head)


# -- streams ----------------------------------------------------------------------------------------


def test_a_view_names_placeholders_ends_and_padding():
    model = tiny_model("LlavaForConditionalGeneration")
    model.config.eos_token_id = model.config.get_text_config().eos_token_id = [2, 7]
    batch = batch_for("LlavaForConditionalGeneration")
    batch["attention_mask"][1, 20:] = 0
    (stream,) = CausalLMAdapter(model).view(model, batch).streams
    assert stream.filler.reshape(2, LENGTH)[:, 2:6].all()
    assert int(stream.filler.sum()) == 8
    assert stream.end_ids == (2, 7)
    assert (stream.segment.reshape(2, LENGTH)[1, 20:] == -1).all()
    assert stream.vocab == VOCAB


def test_usable_ids_are_ordinary_for_head_and_embedding():
    model = tiny_model("LlavaForConditionalGeneration")
    adapter = CausalLMAdapter(model)
    free = adapter.usable_ids(model, adapter.view(model, batch_for("LlavaForConditionalGeneration"))).tolist()
    assert free == [number for number in range(VOCAB) if number not in {0, 1, 2, 3}]


def positions(*lengths):
    return torch.cat([torch.arange(length) for length in lengths])[None]


CUT = torch.cat([torch.arange(5, 15), torch.arange(2, 16), torch.arange(24)])[None]
NUMBERS = torch.tensor([1] * 10 + [2] * 14 + [3] * 24)
BLOCKS = (NUMBERS[:, None] == NUMBERS).tril()[None, None]
ADDED = torch.zeros(1, 1, 48, 48).masked_fill(~BLOCKS, torch.finfo(torch.float32).min)

DOCUMENTS = [
    pytest.param({"position_ids": CUT}, id="documents cut at their beginning"),
    pytest.param({"position_ids": positions(10, 14, 24)}, id="position_ids"),
    pytest.param({"position_ids": positions(10, 14, 24).expand(3, 1, 48)}, id="three axes"),
    pytest.param({"cu_seq_lens_q": torch.tensor([0, 10, 24, 48])}, id="cu_seq_lens"),
    pytest.param({"seq_idx": torch.tensor([0] * 10 + [1] * 14 + [2] * 24)[None]}, id="seq_idx"),
    pytest.param({"attention_mask": NUMBERS[None]}, id="mask numbers"),
    pytest.param({"attention_mask": BLOCKS}, id="a mask of blocks"),
    pytest.param({"attention_mask": ADDED, "position_ids": positions(48)}, id="blocks that are added"),
    pytest.param({"attention_mask": BLOCKS | BLOCKS.mT}, id="blocks that see both ways"),
]


@pytest.mark.parametrize("given", DOCUMENTS)
def test_packed_documents_are_told_apart(llama, given):
    ids = text_batch()["input_ids"].reshape(1, -1)
    (stream,) = CausalLMAdapter(llama).view(llama, {"input_ids": ids, **given}).streams
    assert torch.nonzero(~stream.follows()).reshape(-1).tolist() == [9, 23, 47]


@pytest.mark.parametrize(
    "seen",
    [
        torch.ones(48, 48).tril(),
        torch.ones(48, 48).tril().triu(-4),
        torch.ones(48, 48).triu(1),
        torch.eye(48),
        torch.cat([torch.ones(48, 1), torch.eye(48)[:, 1:]], 1),
    ],
    ids=["causal", "a window", "the wrong way round", "alone", "a first token that all see"],
)
def test_a_mask_without_blocks_makes_one_document(llama, seen):
    ids = text_batch()["input_ids"].reshape(1, -1)
    (stream,) = (
        CausalLMAdapter(llama).view(llama, {"input_ids": ids, "attention_mask": seen.bool()[None, None]}).streams
    )
    assert len(torch.unique(stream.segment)) == 1


def test_positions_that_do_not_begin_anew_make_one_document(llama):
    ids = text_batch()["input_ids"]
    left_padded = torch.cat([torch.zeros(2, 4), torch.arange(20).expand(2, 20)], 1).long()
    mask = (torch.arange(LENGTH) >= 4).long().expand(2, LENGTH)
    batches = [
        {"input_ids": ids, "position_ids": torch.arange(5, 5 + LENGTH)[None]},
        {"input_ids": ids, "position_ids": torch.zeros(2, LENGTH).long()},
        {"input_ids": ids, "position_ids": left_padded, "attention_mask": mask},
    ]
    for batch in batches:
        (stream,) = CausalLMAdapter(llama).view(llama, batch).streams
        assert len(torch.unique(stream.segment[stream.segment >= 0])) == 2


BAD_BATCHES = [
    pytest.param({"input_ids": None}, "the batch has no input_ids: it has", id="no ids"),
    pytest.param({"labels": torch.zeros(2, 23).long()}, r"labels have shape \(2, 23\)", id="labels"),
    pytest.param({"attention_mask": torch.ones(2, 30)}, r"attention_mask has shape \(2, 30\)", id="mask"),
    pytest.param({"seq_idx": torch.zeros(2, 9)}, r"seq_idx has shape \(2, 9\)", id="seq_idx"),
    pytest.param({"position_ids": torch.zeros(1, 9)}, r"position_ids have shape \(1, 9\)", id="positions"),
    pytest.param({"cu_seq_lens": torch.tensor([0, 90])}, "must rise from 0 to at most the 48", id="boundaries"),
]


@pytest.mark.parametrize(("change", "message"), BAD_BATCHES)
def test_batches_that_do_not_fit(llama, change, message):
    with pytest.raises(InputError, match=message):
        CausalLMAdapter(llama).view(llama, {**text_batch(), **change})


def test_an_encoder_decoder_batch_without_decoder_ids_or_labels():
    model = tiny_model("BartForConditionalGeneration")
    with pytest.raises(InputError, match=r"give labels or decoder_input_ids|does not run on the batch"):
        CausalLMAdapter(model).view(model, {"attention_mask": torch.ones(2, 4)})


# -- batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["labels", "shift_labels"])
def test_relabelled_labels_follow_their_ids_in_either_convention(llama, key):
    batch = text_batch()
    labels = batch.pop("labels")
    if key == "shift_labels":
        labels = torch.cat([labels[:, 1:], torch.full((2, 1), 19)], 1)
    batch[key] = labels
    adapter = CausalLMAdapter(llama)
    view = adapter.view(llama, batch)
    fresh = torch.arange(2 * LENGTH) + 30
    out = adapter.relabel(llama, batch, view, (fresh,), foreign=5)
    assert torch.equal(out["input_ids"].reshape(-1), fresh)
    wanted = fresh.reshape(2, LENGTH)
    if key == "shift_labels":
        wanted = torch.cat([wanted[:, 1:], torch.full((2, 1), 5)], 1)
    assert torch.equal(out[key], torch.where(labels == -100, labels, wanted))
    assert torch.equal(batch["input_ids"], text_batch()["input_ids"])


def test_relabelling_keeps_placeholders_and_padding():
    model = tiny_model("LlavaForConditionalGeneration")
    batch = batch_for("LlavaForConditionalGeneration")
    batch["attention_mask"][1, 20:] = 0
    adapter = CausalLMAdapter(model)
    fresh = torch.arange(2 * LENGTH) + 30
    out = adapter.relabel(model, batch, adapter.view(model, batch), (fresh,), foreign=5)["input_ids"]
    kept = out == batch["input_ids"]
    assert torch.nonzero(kept)[:, 1].tolist() == [2, 3, 4, 5, 2, 3, 4, 5, 20, 21, 22, 23]


def test_split_takes_what_belongs_to_each_sample(llama):
    batch = {
        **text_batch(),
        "position_ids": torch.arange(2 * LENGTH).reshape(1, 2, LENGTH).expand(3, 2, LENGTH),
    }
    batch |= {"names": ["a", "b"], "scale": torch.tensor(3.0), "note": "kept"}
    one, two = CausalLMAdapter(llama).split(llama, batch)
    assert torch.equal(two["input_ids"], batch["input_ids"][1:])
    assert torch.equal(one["position_ids"], batch["position_ids"][:, :1])
    assert (one["names"], two["names"], one["note"]) == (["a"], ["b"], "kept")
    assert CausalLMAdapter(llama).split(llama, one)[0].keys() == one.keys()


# -- loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlavaForConditionalGeneration", "BartForConditionalGeneration"])
def test_a_checkpoint_is_loaded_as_the_class_it_names(name, tmp_path):
    tiny_model(name).save_pretrained(tmp_path)
    model, missing = load_causal_lm(tmp_path, torch.bfloat16)
    assert type(model).__name__ == name
    assert missing == ()
    assert model.training
    assert next(model.parameters()).dtype == torch.bfloat16


def test_a_checkpoint_of_a_body_is_loaded_with_a_head(tmp_path):
    transformers.LlamaModel(tiny_model("LlamaForCausalLM").config).save_pretrained(tmp_path)
    assert type(load_causal_lm(tmp_path)[0]).__name__ == "LlamaForCausalLM"


def test_models_that_cannot_be_loaded(tmp_path):
    model = tiny_model("LlamaForCausalLM")
    with pytest.raises(UsageError, match=r"cannot be loaded .*name a folder with config\.json and safetensors"):
        load_causal_lm("no/such-model")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_causal_lm(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # pickles are never read
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_causal_lm(tmp_path)
    model.config.architectures = ["NoSuchForCausalLM"]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="NoSuchForCausalLM is not in transformers"):
        load_causal_lm(tmp_path)
