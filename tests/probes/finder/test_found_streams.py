"""``check_loss`` without a declaration: what was found is judged as what was declared, and nothing is guessed."""

import pytest
from speech_zoo import ZOO, Causal, ce, ids
from torch import nn

from probes import UsageError, check_loss, discover

#: What has to be declared: a module with a head of its embedding's size is taken for a plain text model, unsearched.
NOT_YET = {
    "built inside": "a head known by its size, over rows that the model puts together itself",
    "codebooks folded into the batch": "a head known by its size, over rows that the model puts together itself",
    "time before samples": "a head known by its size; ids of (T, B) are read as (B, T)",
    "head in chunks": "each chunk is a call of its own, whose rows have no place",
}
CASES = [
    pytest.param(one, loss, id=f"{one.name}, {name}", marks=[] if number < 4 else [pytest.mark.deep])
    for number, one in enumerate(ZOO)
    if one.name not in (*NOT_YET, "convolution as a head", "tied, without a head")  # as above, where a copy is trained
    for name, (loss, _) in one.wrong.items()
]


def marked(one):
    """An architecture, with why nothing named is not enough for it yet."""
    reason = NOT_YET.get(one.name)
    return pytest.param(one, id=one.name, marks=[pytest.mark.xfail(reason=reason)] if reason else [])


@pytest.mark.parametrize("one", [marked(one) for one in ZOO])
def test_a_right_loss_passes_with_nothing_named(one):
    report = check_loss(one.model(), one.batch(), one.right)
    assert not any(finding.is_error for finding in report.findings), report.in_short()
    assert report.streams


@pytest.mark.parametrize(("one", "loss"), CASES)
def test_found_and_declared_give_one_verdict(one, loss):
    model, batch = one.model(), one.batch()
    streams = {declared.name: declared for declared in discover(model, batch, loss).declarations}
    codes = {finding.code for finding in check_loss(model, batch, loss).findings}
    assert codes == {finding.code for finding in check_loss(model, batch, loss, streams=streams).findings}


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
