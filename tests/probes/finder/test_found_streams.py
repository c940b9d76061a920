"""``check_loss`` without a declaration: what was found is judged as what was declared, and nothing is guessed."""

import pytest
from speech_zoo import ZOO, Causal, ce, ids
from torch import nn

from probes import UsageError, check_loss, discover

CASES = [(one, name, loss, code) for one in ZOO for name, (loss, code) in one.wrong.items()]


@pytest.mark.parametrize("one", ZOO, ids=lambda one: one.name)
def test_a_right_loss_passes_with_nothing_named(one):
    report = check_loss(one.model(), one.batch(), one.right)
    assert not any(finding.is_error for finding in report.findings), report.in_short()
    assert set(report.streams) >= {name for name in one.streams if "{" not in name}
    assert any(note.startswith("streams found: ") for note in report.notes)


@pytest.mark.parametrize(("one", "name", "loss", "code"), CASES, ids=[f"{a.name}, {b}" for a, b, _, _ in CASES])
def test_found_and_declared_give_one_verdict(one, name, loss, code):
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
