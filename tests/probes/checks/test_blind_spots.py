"""What is not looked at is told by name through every door, and what is no blind spot leaves a PASS."""

import json

import pytest
import torch
import torch.nn.functional as F
from live_runs import VOCAB, batches, llama, loop, mean, watched

from loss_align import main
from probes import UsageError, check_loss
from probes.records.choice import Choice

IGNORE = -100


@pytest.fixture(scope="module")
def model():
    return llama().eval()


@pytest.fixture
def batch():
    """Two padded samples, a prompt of four tokens each, the rest labelled."""
    return batches(1)[0]


def codes(report):
    return [(found.code, found.stream, found.severity) for found in report.findings]


def hard(model, batch):
    return mean(model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits, batch["labels"])


def taught(model, batch):
    """A soft teacher alone on the labelled rows."""
    logits = model(**batch).logits[:, :-1]
    rows = batch["labels"][:, 1:] != IGNORE
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="none").sum(-1)[rows].mean()


def half_taught(model, batch):
    """Hard targets in the first sample, a soft teacher in the second."""
    one, two = ({key: value[n : n + 1] for key, value in batch.items()} for n in (0, 1))
    return hard(model, one) + taught(model, two)


def held_on_prompts(model, batch):
    """Hard targets, and a teacher on rows that have none."""
    logits = model(**batch).logits
    rows = (batch["labels"] == IGNORE) & (batch["attention_mask"] == 1)
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    prompts = F.kl_div(logits.log_softmax(-1), teacher, reduction="none").sum(-1)[:, :3][rows[:, :3]].mean()
    return mean(logits, batch["labels"]) + 0.1 * prompts


# -- LA802: read, and no target named ---------------------------------------------------------------


@pytest.mark.parametrize("loss", [taught, half_taught])
def test_expected_rows_with_a_soft_teacher_are_a_blind_spot(model, batch, loss):
    report = check_loss(model, batch, loss)
    assert (report.verdict, report.exit_code, codes(report)) == ("incomplete", 4, [("LA802", "text", "blind")])
    assert "of a soft teacher" in report.findings[0].message
    assert report.findings[0].examples[0].expected >= 0


@pytest.mark.parametrize("loss", [taught, half_taught])
def test_accepted_by_name_it_passes_and_the_report_says_what_was_accepted(model, batch, loss):
    report = check_loss(model, batch, loss, ignore=["LA802:text"])
    assert (report.verdict, codes(report), [one.code for one in report.accepted]) == ("pass", [], ["LA802"])
    assert any(note.startswith("accepted: LA802 unread-rows on text") for note in report.notes)
    assert check_loss(model, batch, loss, ignore=["LA802:audio"]).verdict == "incomplete"


def test_a_bare_code_is_taken_and_warned_of(model, batch):
    report = check_loss(model, batch, taught, ignore="LA802")
    assert report.verdict == "pass"
    assert any(note.startswith("warning: LA802 is ignored without a name") for note in report.notes)


def test_a_teacher_on_rows_without_a_target_is_stated(model, batch):
    report = check_loss(model, batch, held_on_prompts)
    assert (report.verdict, codes(report)) == ("pass", [])
    assert any("rows without a target have a gradient that names no single token" in note for note in report.notes)


def test_an_unknown_code_to_ignore_is_bad_usage(model, batch):
    with pytest.raises(UsageError, match="ignore"):
        check_loss(model, batch, hard, ignore=["LA8O2:text"])


# -- LA803: trained, and nowhere in the batch -------------------------------------------------------


def test_trained_rows_of_a_prompt_of_the_losses_own_are_a_blind_spot(model, batch):
    learnt = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))

    def prompted(model, batch):
        embedded = model.get_input_embeddings()(batch["input_ids"])
        logits = model(inputs_embeds=torch.cat([learnt, embedded], 1)).logits
        first = F.cross_entropy(logits[:, 1], batch["input_ids"][:, 0])
        return mean(logits[:, 3:], batch["labels"]) + first

    report = check_loss(model, batch, prompted)
    assert (report.verdict, codes(report)) == ("incomplete", [("LA803", "text", "blind")])
    assert report.findings[0].count == 2


# -- LA804: nothing to compare with -----------------------------------------------------------------


def unlabelled(batch):
    return {key: value for key, value in batch.items() if key != "labels"}


def test_a_part_of_the_rows_trained_without_labels_has_nothing_to_compare_with(model, batch):
    labels = batch["labels"]
    report = check_loss(model, unlabelled(batch), lambda m, b: mean(m(**b).logits, labels))
    assert (report.verdict, codes(report)) == ("incomplete", [("LA804", "text", "blind")])


def test_every_row_trained_without_labels_is_all_there_is(model, batch):
    every = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    report = check_loss(model, unlabelled(batch), lambda m, b: mean(m(**b).logits, every))
    assert (report.verdict, codes(report)) == ("pass", [])


def test_padding_that_no_mask_names_need_not_be_trained(model, batch):
    every = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    given = {"input_ids": batch["input_ids"]}
    assert check_loss(model, given, lambda m, b: mean(m(**b).logits, every)).verdict == "pass"


def test_what_an_error_names_is_no_blind_spot(model, batch):
    labels = batch["labels"]
    report = check_loss(model, unlabelled(batch), lambda m, b: mean(m(**b).logits, labels, 2))
    assert codes(report) == [("LA103", "text", "error")]


def test_a_pass_needs_a_stream_that_was_judged(model, batch):
    report = check_loss(model, batch, lambda m, b: 0.0 * m(**b).logits.sum(), ignore=["LA206"])
    assert (report.verdict, codes(report)) == ("incomplete", [("LA804", "all", "blind")])


# -- a script that is watched -------------------------------------------------------------------------


def test_a_loop_that_keeps_its_labels_to_itself_is_said_to_be_judged_in_part():
    def popped(model, batch):
        labels = batch.pop("labels")
        return mean(model(**batch).logits, labels[0])

    data = [{**batch, "labels": [batch["labels"]]} for batch in batches(2)]  # where nobody looks for them
    report, code = watched(lambda: loop(llama(), popped, data))
    assert (report.verdict, codes(report), code) == ("incomplete", [("LA804", "text", "blind")], 0)
    accepted, _ = watched(lambda: loop(llama(), popped, data), keep=Choice.of("LA804:text"))
    assert accepted.verdict == "pass"


def test_stopped_with_our_code_it_is_four():
    with pytest.raises(SystemExit) as ended:
        watched(lambda: loop(llama(), taught, batches(4)), stop=True)
    assert ended.value.code == 4


def learnt(share):
    """A model that is sure of the next token, and samples that follow it in a share of their rows."""
    model, draw = llama().eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.lm_head.weight.mul_(2000)
        ids = torch.randint(3, VOCAB, (8, 1), generator=draw)
        while ids.shape[1] < 40:
            likely = model(ids).logits[:, -1].argmax(-1, keepdim=True)
            other = torch.randint(3, VOCAB, likely.shape, generator=draw)
            ids = torch.cat([ids, torch.where(torch.rand(likely.shape, generator=draw) < share, likely, other)], 1)
    return model, {"input_ids": ids, "labels": ids.clone()}


@pytest.mark.parametrize(("share", "verdict"), [(0.03, "pass"), (0.3, "incomplete")])
def test_a_few_saturated_rows_are_stated_and_more_are_a_blind_spot(share, verdict):
    model, batch = learnt(share)
    report, code = watched(lambda: loop(model, lambda m, b: m(**b).loss, [batch]), steps=1)
    assert (report.verdict, code) == (verdict, 0), codes(report)
    assert codes(report) == ([] if verdict == "pass" else [("LA802", "text", "blind")])


# -- the command ---------------------------------------------------------------------------------------

LOSSES = """
import torch
import torch.nn.functional as F

def right(model, batch):
    return model(**batch).loss

def copy(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1).float(), batch["labels"].flatten())

def taught(model, batch):
    logits = model(**batch).logits[:, :-1]
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")

def broken(model, batch):
    raise KeyError("no such column")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    llama().save_pretrained(folder)
    (folder / "losses.py").write_text(LOSSES, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("loss", "more", "code", "verdict"),
    [
        ("right", [], 0, "pass"),
        ("copy", [], 1, "fail"),
        ("broken", [], 2, "error"),
        ("taught", [], 4, "incomplete"),
        ("taught", ["--select", "LA102"], 4, "incomplete"),
        ("taught", ["--strict"], 4, "incomplete"),
        ("taught", ["--ignore", "LA802:text"], 0, "pass"),
    ],
)
def test_the_exit_code_of_the_command(loss, more, code, verdict, checkpoint, tmp_path):
    out = tmp_path / "report.json"
    given = ["--model", str(checkpoint), "--length", "24", "--loss", f"{checkpoint}/losses.py:{loss}"]
    assert main(["preflight", *given, *more, "--json", str(out)]) == code
    assert json.loads(out.read_text(encoding="utf-8"))["verdict"] == verdict
