"""``check_loss`` without a declaration: what was found is judged as what was declared, and nothing is guessed."""

import pytest
from finder_models import own
from lm_batches import batch_for
from lm_tiny import tiny_model
from speech_zoo import ZOO, Causal, by_name, ce, ids
from torch import nn

from probes import UsageError, check_loss, discover
from probes.finder import adapter as adapters
from probes.models.streams_file import load_streams

#: What found streams cannot know: which of the codes a voice is taken from, and whose a head without a number is.
UNKNOWN = {
    ("text, reference and mel", "reference of all but the last"),
    ("one head for two speakers", "speakers swapped"),
}

CASES = [
    pytest.param(one, name, id=f"{one.name}, {name}", marks=[] if number < 4 else [pytest.mark.deep])
    for number, one in enumerate(ZOO)
    for name in one.wrong
]


@pytest.mark.parametrize("one", ZOO, ids=lambda one: one.name)
def test_a_right_loss_passes_with_nothing_named(one):
    report = check_loss(one.model(), one.batch(), one.right)
    assert not any(finding.is_error for finding in report.findings), report.in_short()
    assert report.streams


@pytest.mark.parametrize(("one", "fault"), CASES)
def test_a_wrong_loss_has_its_code_found_as_declared(one, fault):
    model, batch, (loss, code) = one.model(), one.batch(), one.wrong[fault]
    streams = {declared.name: declared for declared in discover(model, batch, loss).declarations}
    codes = {finding.code for finding in check_loss(model, batch, loss).findings}
    assert codes == {finding.code for finding in check_loss(model, batch, loss, streams=streams).findings}
    assert (code in codes) is ((one.name, fault) not in UNKNOWN)


@pytest.mark.parametrize(
    ("name", "fault", "code"),
    [
        ("text and K codebooks", "rotated codebooks", "LA106"),
        ("several ahead", "one short", "LA104"),
        ("several ahead", "base shifted again", "LA103"),
    ],
)
def test_numbered_heads_are_held_to_their_numbers(name, fault, code):
    """Each of them lies at one offset of its own, which alone would look right."""
    one = by_name(name)
    report = check_loss(one.model(), one.batch(), one.wrong[fault][0])
    assert {finding.code for finding in report.findings if finding.is_error} == {code}


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(64, 32), Causal(), nn.Linear(32, 64)

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def test_what_is_not_clear_is_refused_and_named():
    kept = ids(5, 64, 2, 12)
    with pytest.raises(UsageError, match=r"not clear: head \(2, 12, 64\): .* no input"):
        check_loss(Own(), {"x": ids(0, 64, 2, 12)}, lambda model, batch: ce(model(batch["x"]), kept))


def test_a_loss_that_trains_no_logits_is_told_what_to_name():
    with pytest.raises(UsageError, match="--head"):
        check_loss(Own(), {"x": ids(0, 64, 2, 12)}, lambda model, batch: model(batch["x"]).square().mean())


BOOKS = by_name("text and K codebooks")
HEADS = [f"heads.{k}" for k in range(4)]


@pytest.mark.parametrize(
    ("heads", "streams"),
    [
        ("heads.0", ["audio[0]"]),
        (["heads.2"], ["audio[2]"]),
        (HEADS, [f"audio[{k}]" for k in range(4)]),
        (["text_head", *HEADS], ["text", *(f"audio[{k}]" for k in range(4))]),
    ],
    ids=["one", "another", "all codebooks", "two vocabularies"],
)
def test_named_heads_read_what_their_targets_follow(heads, streams):
    model, batch = BOOKS.model(), BOOKS.batch()
    report = check_loss(model, batch, BOOKS.right, heads=heads)
    assert list(report.streams) == streams
    assert not any(finding.is_error for finding in report.findings), report.in_short()
    copied = check_loss(model, batch, BOOKS.wrong["copy"][0], heads=heads)
    assert {finding.code for finding in copied.findings if finding.is_error} == {"LA102"}


@pytest.mark.parametrize("book", [0, 1])
def test_ids_by_the_usual_name_are_not_taken_for_those_of_a_named_head(book):
    """The model reads ``codes``; the same integers lie in the batch once more."""
    batch = {"input_ids": BOOKS.batch()["codes"][:, book], **BOOKS.batch()}
    report = check_loss(BOOKS.model(), batch, BOOKS.right, heads=["heads.0"])
    assert not any(finding.is_error for finding in report.findings), report.in_short()
    report = check_loss(BOOKS.model(), batch, BOOKS.wrong["copy"][0], heads=["heads.0"])
    assert {finding.code for finding in report.findings if finding.is_error} == {"LA102"}


def test_a_named_head_beside_which_others_are_trained_is_no_pass():
    report = check_loss(BOOKS.model(), BOOKS.batch(), BOOKS.right, heads="heads.0")
    assert report.verdict == "incomplete"
    assert sum(finding.code == "LA801" for finding in report.findings) == 4


def test_a_head_that_gives_a_row_for_each_id_is_not_searched(monkeypatch):
    monkeypatch.setattr(adapters, "discover", lambda *_: pytest.fail("the loss was searched"))
    batch = {"x": ids(0, 64, 2, 12)}
    report = check_loss(Own(), batch, lambda m, b: ce(m(b["x"])[:, :-1], b["x"][:, 1:]), heads="head")
    assert not any(finding.is_error for finding in report.findings)


@pytest.mark.parametrize(
    "name",
    [
        "T5ForConditionalGeneration",
        "BartForConditionalGeneration",
        "WhisperForConditionalGeneration",
        "GPT2LMHeadModel",
    ],
)
def test_what_discover_writes_is_read_at_the_offset_that_it_found(name, tmp_path):
    """Inputs that the model makes of the labels, with an encoder as long as its decoder beside them."""
    model, batch = tiny_model(name), batch_for(name)
    found = discover(model, batch, own)
    file = tmp_path / "streams.toml"
    file.write_text(found.toml())
    streams = {one.name: one for one in load_streams(str(file))}
    report = check_loss(model, batch, own, streams=streams, replay=False)
    offsets = {name: set(stream["offsets"]) for name, stream in report.streams.items()}
    assert offsets == {one.name: {f"{one.offset}"} for one in found.found}
    assert not any(finding.is_error for finding in report.findings), report.in_short()
