"""The lines that a report names: those that made the finding, no other, and none where that cannot be known."""

import inspect
import re
import sys
from html import unescape

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import tiny_model
from random_drawing import drawn
from random_lines import told
from random_programs import Program

from probes import check_loss
from probes.line import add, ledger
from probes.line.tape import Tape
from probes.report import html, junit, markdown
from probes.report.terminal import as_text


@pytest.fixture(scope="module")
def model():
    return tiny_model("LlamaForCausalLM")


def batch_of(size=2, length=12):
    """Ids that are all different; the first half of each sample is a prompt."""
    ids = torch.randperm(60, generator=torch.Generator().manual_seed(0))[: size * length].reshape(size, length) + 3
    labels = ids.clone()
    labels[:, : length // 2] = -100
    return {"input_ids": ids, "labels": labels}


def mean(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def logits_of(model, batch):
    return model(input_ids=batch["input_ids"]).logits


# -- losses, each with the line that makes its fault --------------------------------------------------


def right(model, batch):
    return mean(logits_of(model, batch)[:, :-1], batch["labels"][:, 1:])


def copied(model, batch):
    return mean(logits_of(model, batch), batch["labels"])  # planted


def cut_on_both_sides(model, batch):
    logits, labels = logits_of(model, batch)[:, :-1], batch["labels"][:, :-1]  # planted
    return mean(logits, labels)


def shifted_twice(model, batch):
    labels = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]  # planted
    return model(input_ids=batch["input_ids"], labels=labels).loss  # planted


def shifted_on_the_wrong_side(model, batch):
    logits, labels = logits_of(model, batch)[:, 1:], batch["labels"][:, :-1]  # planted
    return mean(logits, labels)


def cut_on_one_side(model, batch):
    logits = logits_of(model, batch)[:, :-1]  # planted
    return mean(logits, batch["labels"])


def end_masked(model, batch):
    labels = batch["labels"].clone()
    labels[:, -2:] = -100  # planted
    return mean(logits_of(model, batch)[:, :-1], labels[:, 1:])


def prompt_trained(model, batch):
    labels = batch["labels"].where(batch["labels"] != -100, batch["input_ids"])  # planted
    return mean(logits_of(model, batch)[:, :-1], labels[:, 1:])


def mask_not_moved(model, batch):
    mask = (batch["labels"] != -100)[:, :-1]  # planted
    losses = F.cross_entropy(logits_of(model, batch)[:, :-1].mT, batch["input_ids"][:, 1:], reduction="none")
    return (losses * mask).sum() / mask.sum()


def flattened_first(model, batch):
    logits, labels = logits_of(model, batch).flatten(0, 1), batch["input_ids"].flatten()
    return F.cross_entropy(logits[:-1], labels[1:])  # planted


def mean_of_samples(model, batch):
    logits, labels = logits_of(model, batch)[:, :-1], batch["labels"][:, 1:].clone()
    labels[0, :-2] = -100
    return torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]).mean()  # planted


def cut_off(model, batch):
    loss = right(model, batch)
    return loss.detach()  # planted


def made_a_number(model, batch):
    return right(model, batch).item()  # planted


class Own(torch.autograd.Function):
    """A loss with a backward of its own."""

    @staticmethod
    def forward(context, logits, labels):
        context.save_for_backward(logits, labels)
        return F.cross_entropy(logits, labels)

    @staticmethod
    def backward(context, grad):
        logits, labels = context.saved_tensors
        rest = logits.softmax(-1) - F.one_hot(labels.clamp(min=0), logits.shape[-1])
        return grad * rest * (labels != -100)[:, None] / (labels != -100).sum(), None


def own_function(model, batch):
    return Own.apply(logits_of(model, batch).flatten(0, 1), batch["labels"].flatten())  # planted


def columns_cut(model, batch):
    logits = logits_of(model, batch)[..., 1:]  # planted
    return mean(logits[:, :-1], batch["labels"][:, 1:])


def ids_counted_from_one(model, batch):
    labels = batch["labels"]
    labels = torch.where(labels >= 0, labels + 1, labels)  # planted
    return mean(logits_of(model, batch)[:, :-1], labels[:, 1:])


def written_apart(model, batch):
    labels = torch.tensor([[[label, 0] for label in row] for row in batch["labels"].tolist()])[..., 0]
    labels = F.pad(labels, (0, 1), value=-100)[:, 1:]  # planted
    return mean(logits_of(model, batch)[:, :-1], labels[:, 1:])  # planted


PLANTED = {
    copied: "LA102",
    cut_on_both_sides: "LA102",
    own_function: "LA102",
    shifted_twice: "LA103",
    shifted_on_the_wrong_side: "LA104",
    cut_on_one_side: "LA101",
    end_masked: "LA201",
    prompt_trained: "LA202",
    mask_not_moved: "LA201",
    columns_cut: "LA201",
    written_apart: "LA103",
    ids_counted_from_one: "LA201",
    flattened_first: "LA204",
    mean_of_samples: "LA301",
    cut_off: "LA605",
    made_a_number: "LA605",
}


def planted_in(loss):
    """Numbers of the lines of a loss that are marked as planted."""
    lines, first = inspect.getsourcelines(loss)
    return {first + number for number, line in enumerate(lines) if "# planted" in line}


def told_of(model, batch, loss, code):
    report = check_loss(model, batch, loss, replay=False)
    return next(one for one in report.findings if one.code == code)


@pytest.mark.parametrize("loss", PLANTED, ids=lambda loss: loss.__name__)
def test_the_planted_lines_are_named(model, loss):
    found = told_of(model, batch_of(), loss, PLANTED[loss])
    own = {line.line for line in found.lines if line.own}
    assert planted_in(loss) <= own, found.lines
    assert all(line.code and line.does for line in found.lines)


@pytest.mark.parametrize("loss", [shifted_twice, end_masked, prompt_trained, cut_off], ids=lambda loss: loss.__name__)
def test_no_other_line_of_the_loss_is(model, loss):
    found = told_of(model, batch_of(), loss, PLANTED[loss])
    assert {line.line for line in found.lines if line.own} == planted_in(loss)


def test_a_library_line_stands_behind_the_users_own(model):
    found = told_of(model, batch_of(), shifted_twice, "LA103")
    *_, own, library = found.lines
    assert own.own
    assert not library.own
    assert library.file.startswith("transformers/")
    assert library.does == "moves labels by one"
    assert own.does == f"calls {library.file.rpartition('/')[2]}:{library.line}"


def test_the_mark_is_the_part_that_moves(model):
    line = told_of(model, batch_of(), shifted_twice, "LA103").lines[0]
    first, last = line.mark
    if last:  # Python knows it from 3.11 on
        assert line.code[first:last] == 'F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]'


def test_the_line_stands_in_every_form_of_the_report(model):
    report = check_loss(model, batch_of(), copied, replay=False)
    code = 'return mean(logits_of(model, batch), batch["labels"])  # planted'
    terminal = as_text(report, 160).splitlines()
    at = next(number for number, text in enumerate(terminal) if text.strip() == code)
    first = terminal[at].index("mean(") if sys.version_info >= (3, 11) else 0
    assert terminal[at + 1][first:].startswith("^^^^") or not first
    line = next(line for line in report.as_dict()["findings"][0]["lines"] if line["code"] == code)
    assert line["file"].endswith("test_named_lines.py")
    for text in (str(report), report.in_short(), markdown.render(report), junit.render(report), html.render(report)):
        plain = re.sub(r"<mark>|</mark>|\\", "", unescape(text))
        assert code.partition("  #")[0] in plain
        assert f"test_named_lines.py:{line['line']}" in plain


# -- where no line made it --------------------------------------------------------------------------------


def test_labels_that_are_moved_in_the_batch_are_said_to_be(model):
    batch = batch_of()
    batch["labels"] = F.pad(batch["input_ids"], (0, 1), value=-100)[:, 1:]
    found = told_of(model, batch, right, "LA103")
    assert found.origin == "the labels name the next token already, in the batch as it was given"
    assert [line.does for line in found.lines] == ["moves labels by one"]


def written_anew(model, batch):
    labels = torch.tensor(batch["input_ids"].tolist())
    return mean(logits_of(model, batch)[:, :-1], labels[:, 1:])


def test_labels_that_are_written_element_by_element_are_not_guessed(model):
    found = told_of(model, batch_of(), written_anew, "LA202")
    assert not found.lines
    assert found.origin.startswith("not known: these labels are written anew at ")


def test_a_loss_that_nothing_is_said_of_is_not_run_again(model, monkeypatch):
    monkeypatch.setattr(add, "traced", None)  # would raise
    assert check_loss(model, batch_of(), right, replay=False).verdict == "pass"


def test_what_was_in_the_model_is_there_afterwards(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    told_of(model, batch_of(), shifted_twice, "LA103")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_of_ours_is_none_of_the_loss(model, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(Tape, "_record", broken)
    found = told_of(model, batch_of(), shifted_twice, "LA103")
    assert not found.lines
    assert found.origin == "not known: the loss could not be followed (RuntimeError: ours)"


def one_hot_in_chunks(model, batch):
    hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state.flatten(0, 1)
    labels = batch["labels"].flatten()
    due = labels >= 0
    parts = zip(hidden[due].split(2), labels[due].split(2), strict=True)
    vocab = model.config.vocab_size
    return sum(-(model.lm_head(h).log_softmax(-1) * F.one_hot(y, vocab).float()).sum() for h, y in parts) / due.sum()


def test_a_line_is_not_worth_the_memory_of_all_logits(model, monkeypatch):
    told_of(model, batch_of(), one_hot_in_chunks, "LA102")
    monkeypatch.setattr(ledger, "ROOM", 0)  # what is left is room beside the largest numbered tensor
    found = told_of(model, batch_of(), one_hot_in_chunks, "LA102")
    assert not found.lines
    assert found.origin.startswith("not known: the loss could not be followed (what it does with its logits takes more")


# -- the jury ---------------------------------------------------------------------------------------------


def judged(seed, programs):
    said = [told(drawn(seed, number)) for number in range(1, 2 * programs, 2)]
    return [one for one in said if one.kind != "other"]


def test_random_programs_have_their_planted_line_named():
    said = judged(2, 8)
    assert [one for one in said if one.kind != "named"] == []
    assert said


@pytest.mark.parametrize(
    "program",
    [
        Program(model="books", fault="other book"),
        Program(criterion="policy", loop=True, fault="detached"),
        Program(model="plain", logits="rows first", fault="double shift"),
        Program(model="plain", loop=True, fault="length"),
    ],
    ids=lambda one: one.fault,
)
def test_books_detaches_and_bodies_that_nobody_knows_have_theirs(program):
    assert told(program).kind == "named"


@pytest.mark.deep
def test_of_a_thousand_random_programs_none_has_a_wrong_line():
    said = judged(3, 1000)
    assert [one for one in said if one.kind == "wrong"] == []
    assert sum(one.kind == "named" for one in said) >= 0.95 * len(said)
