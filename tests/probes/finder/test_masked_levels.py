"""Masked streams whose truth the loss keeps to itself: told by where their inputs are masked, never guessed."""

import pytest
import torch
from speech_zoo import by_name, ce
from torch import nn

from probes import UsageError, check_loss, discover
from probes.models.streams_file import load_streams

LEVELS = by_name("masked levels")
MASK = 40


def kept_back(*keys):
    """The batch without its truth and other keys, and the truth."""
    batch = LEVELS.batch()
    truth = batch.pop("truth")
    return {key: value for key, value in batch.items() if key not in keys}, truth


def above(truth):
    """Level 1 where it is masked, as it should be, and level 2 as well."""
    return lambda model, batch: ce(model(batch["inputs"]), truth.masked_fill(batch["inputs"] != MASK, -100))


def one_level(truth):
    hidden = (torch.arange(3) == 1).expand_as(truth)
    return lambda model, batch: ce(model(batch["inputs"]), truth.masked_fill((batch["inputs"] != MASK) | ~hidden, -100))


def test_a_masked_level_is_found_by_its_masks_and_passes():
    batch, truth = kept_back()
    report = check_loss(LEVELS.model(), batch, one_level(truth))
    assert report.verdict == "pass"
    assert list(report.streams) == ["audio[1]"]


def test_levels_that_the_labels_leave_out_are_not_to_be_trained():
    batch, truth = kept_back()
    report = check_loss(LEVELS.model(), batch, above(truth))
    assert [(one.code, one.stream) for one in report.findings] == [("LA202", "audio[2]")]


def test_labels_that_leave_positions_out_go_before_a_truth_that_does_not():
    report = check_loss(LEVELS.model(), LEVELS.batch(), LEVELS.wrong["levels above"][0])
    assert [(one.code, one.stream) for one in report.findings] == [("LA202", "audio[2]")]


def test_without_labels_nobody_says_what_must_be_trained():
    batch, truth = kept_back("labels")
    report = check_loss(LEVELS.model(), batch, above(truth))
    assert report.verdict == "incomplete"
    assert {one.code for one in report.findings} == {"LA804"}


class Wide(nn.Module):
    """A head over all ids that its table knows, the mask too."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(41, 32), nn.Linear(32, 41)
        self.body = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)

    def forward(self, units):
        return self.head(self.body(self.table(units)))


def test_what_is_masked_elsewhere_too_is_refused_with_a_draft_to_fill_in(tmp_path):
    batch, truth = kept_back()
    units, more = batch["inputs"][..., 1], torch.arange(16) % 5 == 0
    loss = lambda model, batch: ce(  # noqa: E731
        model(batch["units"]), truth[..., 1].masked_fill((units != MASK) & ~more, -100)
    )
    with pytest.raises(
        UsageError, match=r'not clear: head \(2, 16, 41\).*\n\n\["head"\].*\nhead = "head"\nids = "units"'
    ):
        check_loss(Wide(), {"units": units}, loss)
    (unclear,) = discover(Wide(), {"units": units}, loss).unclear
    file = tmp_path / "streams.toml"
    file.write_text("\n".join(unclear.draft))
    (declared,) = load_streams(str(file))
    assert (str(declared.head[0]), str(declared.ids)) == ("head", "units")


def test_ids_of_several_streams_that_nothing_follows_are_refused_with_a_draft():
    batch, truth = kept_back("labels")
    loss = lambda model, batch: ce(model(batch["inputs"])[:, :8], truth[:, :8])  # noqa: E731
    with pytest.raises(UsageError, match=r'inputs \[2, 16, 3\] holds several streams.*\n\n\["audio\[\{k\}\]"\]'):
        check_loss(LEVELS.model(), batch, loss)
