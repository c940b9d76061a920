"""Loss masks that never reach the model: found beside its ids in the script, and held against what it trains."""

import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from live_runs import llama, watched
from live_runs import loop as plain_loop

from probes.live.kept_back import kept_back

END, PAD = 1, 0
ALL = [(0, 5, 9), (0, 4, 12)]


def batches(count=4, *, rows=False):
    """Prompts and answers that end in the end token, padded; the mask is of tokens, or of rows."""
    draw = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        ids = torch.full((2, 14), PAD)
        mask = torch.zeros_like(ids)
        for sample, (start, answer, end) in enumerate(ALL):
            ids[sample, start:end] = torch.randperm(250, generator=draw)[: end - start] + 3
            ids[sample, end - 1] = END
            mask[sample, answer:end] = 1
        out.append({"input_ids": ids, "attention_mask": (ids != PAD).long(), "loss_mask": mask})
        if rows:
            out[-1]["loss_mask"] = F.pad(mask[:, 1:], (0, 1))
    return out


def model():
    out = llama()
    out.config.eos_token_id, out.config.pad_token_id = END, PAD
    out.generation_config.eos_token_id = END
    return out


def nll(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


def masked(mask, each):
    return (each * mask).sum() / mask.sum()


def logits_of(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def of_tokens(model, batch):
    return masked(batch["loss_mask"][:, 1:], nll(logits_of(model, batch), batch["input_ids"]))


def of_rows(model, batch):
    return masked(batch["loss_mask"][:, :-1], nll(logits_of(model, batch), batch["input_ids"]))


def taken_out(model, batch):
    loss_mask = batch.pop("loss_mask")
    return masked(loss_mask[:, 1:], nll(model(**batch).logits, batch["input_ids"]))


def taken_out_of_rows(model, batch):
    loss_mask = batch.pop("loss_mask")
    return masked(loss_mask[:, :-1], nll(model(**batch).logits, batch["input_ids"]))


def codes(report):
    assert report.error == ""
    return {found.code for found in report.findings}


def loop(loss, data):
    return watched(lambda: plain_loop(model(), loss, data))


@pytest.mark.parametrize(
    ("loss", "rows"), [(of_tokens, False), (of_rows, True), (taken_out, False), (taken_out_of_rows, True)]
)
def test_a_mask_at_its_own_place_is_what_is_trained(loss, rows):
    report, code = loop(loss, batches(rows=rows))
    assert (report.verdict, codes(report), code) == ("pass", set(), 0)
    assert any("loss_mask says which" in note for note in report.notes)


@pytest.mark.parametrize(
    ("loss", "rows", "found"),
    [
        (of_rows, False, {"LA201", "LA202"}),
        (of_tokens, True, {"LA202", "LA203"}),
        (taken_out_of_rows, False, {"LA201", "LA202"}),
    ],
)
def test_a_mask_that_is_off_by_one_is_named(loss, rows, found):
    report, code = loop(loss, batches(rows=rows))
    assert (codes(report), code) == (found, 1)


def test_a_mask_that_nobody_can_find_leaves_the_run_as_it_was():
    def loss(model, batch):
        return masked(batch["kept"][:, 1:], nll(logits_of(model, batch), batch["input_ids"]))

    data = [{"kept" if key == "loss_mask" else key: value for key, value in batch.items()} for batch in batches()]
    report, _ = loop(loss, data)
    assert codes(report) == {"LA804"}


def test_weights_of_zero_are_no_missing_targets():
    """Equal rewards silence a sample, a clipped ratio a row."""

    def loss(model, batch):
        weight = torch.tensor([[0.0], [1.0]]) * batch["loss_mask"][:, 1:]
        weight[1, 6] = 0
        return (weight * nll(logits_of(model, batch), batch["input_ids"])).sum()

    report, _ = loop(loss, batches())
    assert codes(report) == set()
    assert any("a weight of zero" in note for note in report.notes)


def test_every_answer_without_its_first_token_is_named():
    def loss(model, batch):
        late = batch["loss_mask"][:, 1:] * batch["loss_mask"][:, :-1]
        return masked(late, nll(logits_of(model, batch), batch["input_ids"]))

    report, code = loop(loss, batches())
    assert (codes(report), code) == ({"LA201"}, 1)


def test_a_mask_over_labels_that_are_not_masked_says_which_of_them_count():
    def loss(model, batch):
        labels = batch["labels"]
        logits = logits_of(model, batch)
        return masked(batch["loss_mask"], F.cross_entropy(logits.mT, labels, reduction="none"))

    data = batches(rows=True)
    for batch in data:
        batch["labels"] = F.pad(batch["input_ids"][:, 1:], (0, 1), value=PAD)
    report, code = loop(loss, data)
    assert (codes(report), code) == (set(), 0)


def test_nothing_of_the_script_is_held():
    class Large:
        pass

    def script():
        batch, large = batches(1)[0], Large()
        found.append(kept_back(batch["input_ids"], sys._getframe()))
        seen, large = weakref.ref(large), None
        gc.collect()
        return seen() is None

    found = []
    assert script()
    assert found[0].keys() == {"loss_mask"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("action_mask", (2, 14)),
        ("labels_mask", (2, 14)),
        ("mask_of_answers", (28,)),
        ("loss_mask", (28,)),
        ("loss_mask", (2, 14, 1)),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_mask_by_another_name_or_of_another_shape_is_found(name, shape, late):
    def loss(model, batch):
        mask = batch[name].reshape(2, 14)
        return masked(mask[:, :-1] if late else mask[:, 1:], nll(logits_of(model, batch), batch["input_ids"]))

    data = batches()
    for batch in data:
        batch[name] = batch.pop("loss_mask").reshape(shape)
    report, code = loop(loss, data)
    assert (codes(report), code) == (({"LA201", "LA202"}, 1) if late else (set(), 0))


def labelled(count=4):
    """The same batches with labels in place of the mask."""
    data = batches(count)
    for batch in data:
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("loss_mask") == 0, -100)
    return data


def by_labels(shift=1, *, lose=0):
    """A loop that keeps its labels back, moves them by ``shift``, and leaves out the first rows that they name."""

    def loss(model, batch):
        labels = batch["labels"]
        logits = logits_of(model, batch)
        used = labels.clone()
        for row in range(len(used)):
            used[row, torch.nonzero(used[row] != -100)[:lose]] = -100
        return F.cross_entropy(logits[:, : logits.shape[1] - shift].flatten(0, 1), used[:, shift:].flatten())

    return loss


@pytest.mark.parametrize(("lose", "found"), [(0, set()), (1, {"LA201"}), (2, {"LA201"})])
def test_labels_that_stand_beside_the_ids_say_what_must_be_trained(lose, found):
    report, code = loop(by_labels(lose=lose), labelled())
    assert (codes(report), code) == (found, int(bool(found)))
    assert report.streams["text"]["missing"] == 4 * lose


def test_labels_that_were_shifted_beforehand_are_known_as_such():
    def loss(model, batch):
        ahead = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
        return F.cross_entropy(logits_of(model, batch).flatten(0, 1), ahead.flatten())

    assert codes(loop(loss, labelled())[0]) == set()


def test_labels_that_mask_padding_alone_say_nothing_of_what_else_masks_the_loss():
    def loss(model, batch):
        every = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        mine = F.pad(batch["kept"][:, 1:], (0, 1)) * F.cross_entropy(
            logits_of(model, batch).mT, F.pad(every[:, 1:], (0, 1), value=-100), reduction="none"
        )
        return mine.sum()

    data = [{"kept" if key == "loss_mask" else key: value for key, value in batch.items()} for batch in batches()]
    assert codes(loop(loss, data)[0]) == {"LA804"}


def test_targets_made_otherwise_than_the_labels_are_not_held_to_them():
    def loss(model, batch):
        labels = batch["labels"]
        made = torch.randint(3, 250, labels.shape, generator=torch.Generator().manual_seed(1))
        return F.cross_entropy(logits_of(model, batch).flatten(0, 1), made.masked_fill(labels == -100, -100).flatten())

    report, _ = loop(loss, labelled())
    assert codes(report) == {"LA804"}
    assert "none was judged" in report.findings[0].message


def whole_or_not(*, answers_alone):
    """A preference loss: every token of the first sample is trained beside the answers of both, or of no other."""

    def loss(model, batch):
        labels, ids = batch["labels"], batch["input_ids"]
        logits = logits_of(model, batch)
        every = ids.masked_fill(batch["attention_mask"] == 0, -100)
        whole = F.cross_entropy(logits[:1, :-1].mT, every[:1, 1:], reduction="none").sum()
        if not answers_alone:
            return whole + F.cross_entropy(logits[1:, :-1].mT, every[1:, 1:], reduction="none").sum()
        return whole + F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").sum()

    return loss


def test_samples_that_are_trained_whole_beside_others_as_labelled_are_a_choice():
    report, _ = loop(whole_or_not(answers_alone=True), labelled())
    assert (report.verdict, codes(report)) == ("pass", set())
    assert any("are trained whole, others as labelled" in note for note in report.notes)


def test_labels_that_a_loss_does_not_use_are_not_what_it_is_held_to_and_said():
    report, _ = loop(whole_or_not(answers_alone=False), labelled())
    assert (report.verdict, codes(report)) == ("incomplete", {"LA804"})
    assert "beside the ids leave out" in report.findings[0].message
