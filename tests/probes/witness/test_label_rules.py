"""What labels may never name, what ends a span, and what samples say beside each other: rules before any loss."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from probes import check_loss

PAD, BOS, END, TURN, HEAD = 0, 1, 2, 100, 101
IGNORED = -100
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(**config):
    torch.manual_seed(0)
    ids = {"vocab_size": 128, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": END}
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **ids, **config}))


def drawn(size=2, length=24, seed=1):
    return torch.randint(4, 90, (size, length), generator=torch.Generator().manual_seed(seed))


def own(model, batch):
    return model(**batch).loss


def pre_shifted(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def told(batch, loss=own, model=None):
    found = check_loss(model or llama(), batch, loss, replay=False).findings
    return [(one.code, one.severity) for one in found], " ".join(one.message for one in found)


# -- padding ---------------------------------------------------------------------------------------


def padded(pad=PAD):
    ids = drawn()
    ids[0, 15], ids[0, 16:] = END, pad
    return ids


@pytest.mark.parametrize("with_mask", [True, False])
def test_labels_on_padding_are_named_with_and_without_a_mask(with_mask):
    ids = padded()
    batch = {"input_ids": ids, "labels": ids.clone()} | ({"attention_mask": (ids != PAD).long()} if with_mask else {})
    codes, message = told(batch)
    assert codes == [("LA202", "error")]
    assert "8 padding" in message
    assert told({**batch, "labels": ids.masked_fill(ids == PAD, IGNORED)})[0] == []


def test_of_a_run_that_ends_and_pads_the_first_is_the_end():
    model, ids = llama(pad_token_id=END), padded(END)
    assert told({"input_ids": ids, "labels": ids.clone()}, model=model)[0] == [("LA202", "error")]
    right = ids.clone()
    right[0, 16:] = IGNORED
    assert told({"input_ids": ids, "labels": right}, model=model)[0] == []


def test_a_loss_that_leaves_padding_out_by_itself_is_right():
    ids = padded()

    def ignoring(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=PAD)

    assert told({"input_ids": ids, "labels": ids.clone()}, ignoring)[0] == []


def test_labels_that_are_cut_ahead_are_held_to_the_padding_they_name():
    ids = torch.tensor([[5, 6, 7, 8, 9, END], [10, 11, END, PAD, PAD, PAD]])
    mask, ahead = (ids != PAD).long(), ids[:, 1:].clone()
    batch = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "labels": ahead}
    codes, message = told(batch, pre_shifted)
    assert codes == [("LA202", "error")]
    assert "3 padding" in message
    assert told({**batch, "labels": ahead.masked_fill(mask[:, 1:] == 0, IGNORED)}, pre_shifted)[0] == []


def test_an_id_that_stands_inside_of_texts_is_no_padding():
    ids = drawn()
    ids[0, 5], ids[0, -1] = PAD, PAD
    assert told({"input_ids": ids, "labels": ids.clone()})[0] == []


def test_text_without_ends_that_is_trained_whole_is_silent():
    ids = drawn()
    ids[0, 16:] = PAD
    mask = (ids != PAD).long()
    assert told({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)})[0] == []


# -- begins and decoders ---------------------------------------------------------------------------


def test_a_begin_that_an_answer_brings_along_is_named():
    ids = drawn()
    ids[:, 0], ids[:, 10], ids[:, -1] = BOS, BOS, END
    labels = ids.masked_fill(torch.arange(24) < 10, IGNORED)
    codes, message = told({"input_ids": ids, "labels": labels})
    assert codes == [("LA202", "error")]
    assert "2 begin of a text" in message
    assert told({"input_ids": ids, "labels": ids.clone()})[0] == []  # packed text, trained whole


def test_a_begin_that_ends_too_is_an_end():
    ids = drawn()
    ids[:, 0], ids[:, 10] = END, END
    labels = ids.masked_fill(torch.arange(24) < 10, IGNORED)
    assert told({"input_ids": ids, "labels": labels}, model=llama(bos_token_id=END))[0] == []


def t5(pad=PAD):
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ids = {"pad_token_id": pad, "eos_token_id": END, "decoder_start_token_id": PAD, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(**sizes, **ids))


def test_decoder_ids_that_begin_otherwise_are_warned_of():
    labels = drawn(2, 15, seed=5)
    labels[:, -1] = END
    cut = {"input_ids": drawn(2, 12), "decoder_input_ids": labels[:, :-1].contiguous(), "labels": labels[:, 1:].clone()}
    assert told(cut, model=t5())[0] == [("LA201", "warning")]
    assert told({"input_ids": drawn(2, 12), "labels": labels}, model=t5())[0] == []
    shifted = t5()._shift_right(labels)
    assert told({"input_ids": drawn(2, 12), "decoder_input_ids": shifted, "labels": labels}, model=t5())[0] == []


@pytest.mark.parametrize(
    ("behind", "due"), [("masked", []), ("trained", [("LA202", "error")]), ("end masked too", [("LA203", "warning")])]
)
def test_a_decoder_whose_padding_is_its_end_token(behind, due):
    """As Whisper's: what its collator masks is padding, and the one end before it is trained."""
    labels = drawn(2, 12, seed=5)
    labels[0, 7:], labels[1, -1] = END, END
    if behind == "masked":
        labels[0, 8:] = IGNORED
    elif behind == "end masked too":
        labels = labels.masked_fill(labels == END, IGNORED)
    assert told({"input_ids": drawn(2, 12), "labels": labels}, model=t5(pad=END))[0] == due


# -- ends ------------------------------------------------------------------------------------------


def turns(end, labelled_end, following=TURN):
    """Two turns a sample, each behind a header; ``end`` behind each answer, or nothing."""
    rows, marks = [], []
    for sample in range(2):
        row, mark = [], []
        for turn in range(2):
            words = drawn(2, 5, seed=7 * sample + turn).tolist()
            close = [] if end is None else [end]
            row += [following, *words[0], HEAD, *words[1], *close]
            mark += [0] * 7 + [1] * 5 + [int(labelled_end)] * len(close)
        rows.append([*row, following])
        marks.append([*mark, 0])
    ids = torch.tensor(rows)
    return {"input_ids": ids, "labels": ids.masked_fill(torch.tensor(marks) == 0, IGNORED)}


def test_ends_that_are_labelled_are_silent():
    assert told(turns(END, labelled_end=True))[0] == []


def test_an_end_that_no_label_names_is_an_error():
    assert told(turns(END, labelled_end=False))[0] == [("LA203", "error")]


def test_a_token_that_all_spans_stop_before_is_an_end_that_nobody_knows():
    codes, message = told(turns(None, labelled_end=False))
    assert codes == [("LA203", "error")]
    assert f"token {TURN}" in message


def test_spans_that_end_in_one_common_token_end():
    assert told(turns(99, labelled_end=True))[0] == []


def test_the_end_of_the_generation_configuration_counts():
    model = llama()
    model.generation_config.eos_token_id = [END, 99]
    assert told(turns(99, labelled_end=False), model=model)[0] == [("LA203", "error")]


def test_answers_without_any_end_are_warned_of():
    ids = drawn()
    ids[:, 9] = HEAD
    ids[1, 20:] = PAD
    labels = ids.masked_fill((torch.arange(24) < 10) | (ids == PAD), IGNORED)
    assert told({"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels})[0] == [
        ("LA203", "warning")
    ]


# -- samples beside each other ---------------------------------------------------------------------


def test_a_sample_without_a_target_is_warned_of():
    ids = drawn()
    labels = ids.clone()
    labels[1] = IGNORED
    codes, message = told({"input_ids": ids, "labels": labels})
    assert codes == [("LA207", "warning")]
    assert "1 of 2 samples have no target: 1" in message


def test_a_prompt_that_is_labelled_in_one_sample_alone_is_warned_of():
    ids = drawn()
    ids[:, :9] = ids[0, :9].clone()
    labels = ids.clone()
    labels[1, :9] = IGNORED
    assert told({"input_ids": ids, "labels": labels})[0] == [("LA208", "warning")]
    labels[0, :9] = IGNORED
    assert told({"input_ids": ids, "labels": labels})[0] == []
