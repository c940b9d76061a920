"""Declared streams of a script that is watched: heads of its own are read off the gradients of the run."""

import live_runs
import pytest
import torch
import torch.nn.functional as F
from live_runs import EVERYTHING
from speech_zoo import by_name
from torch import nn

from probes.live.launch import Ended
from probes.processes.session import Session, Settings

BOOKS = """
[text]
head = "text_head"
ids = "text"

["audio[{k}]"]
head = "heads.{k}"
ids = "codes[:, {k}]"
"""
#: The same, where the model hands them back; only a batch could count them, so they are written out.
OUTPUTS = '[text]\nhead = "output: 0"\nids = "text"\n' + "".join(
    f'["audio[{k}]"]\nhead = "output: 1[:, {k}]"\nids = "codes[:, {k}]"\n' for k in range(4)
)
CHANNELS = """
["audio[{k}]"]
head = "lm_heads.{k}"
ids = "input_ids[..., {k}]"
"""
#: Its head is called on masked rows.
BACKBONE = """
["audio[0]"]
head = "codebook0_head"
ids = "tokens[..., 0]"
"""


def watched(tmp_path, declared, name, fault=None):
    """Three steps of a loop on an architecture, watched with a streams file."""
    path = tmp_path / "streams.toml"
    path.write_text(declared)
    one = by_name(name)
    loss = one.right if fault is None else one.wrong[fault][0]
    torch.manual_seed(0)
    model = one.model()
    with Session(Settings(2, (), False, {}, EVERYTHING, list, streams=str(path))) as session:
        session.begin()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            loss(model, one.batch()).backward()
            optimizer.step()
            optimizer.zero_grad()
        session.end(Ended(0))
    return session.report


def errors(report):
    return {f.code for f in report.findings if f.is_error}


@pytest.mark.parametrize(
    ("declared", "name", "streams"),
    [
        (BOOKS, "text and K codebooks", 5),
        (OUTPUTS, "text and K codebooks", 5),
        (CHANNELS, "channels of several vocabularies", 3),
        (BACKBONE, "backbone and depth decoder", 1),
    ],
)
def test_a_right_loop_has_no_error_and_its_streams_are_read(tmp_path, declared, name, streams):
    report = watched(tmp_path, declared, name)
    assert not report.error
    assert not errors(report)
    assert len(report.streams) == streams
    assert all(set(stream["offsets"]) <= {"1"} and stream["supervised"] for stream in report.streams.values())


@pytest.mark.parametrize(
    ("declared", "name", "fault", "code"),
    [
        (BOOKS, "text and K codebooks", "copy", "LA102"),
        (OUTPUTS, "text and K codebooks", "copy", "LA102"),
        (CHANNELS, "channels of several vocabularies", "not shifted", "LA102"),
        (CHANNELS, "channels of several vocabularies", "shifted twice", "LA103"),
    ],
)
def test_a_wrong_loop_has_its_code(tmp_path, declared, name, fault, code):
    assert code in errors(watched(tmp_path, declared, name, fault))


def test_a_file_that_is_wrong_is_said_and_the_script_goes_on(tmp_path):
    report = watched(tmp_path, BOOKS.replace("head = ", "haed = "), "text and K codebooks")
    assert "did you mean head" in report.error


@pytest.mark.parametrize("how", ["chunks", "masked"])
def test_a_head_of_ones_own_that_is_called_on_some_rows_is_read(how):
    """Nobody says which module feeds it: its rows are known by their bits."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.mix = nn.Embedding(100, 16), nn.GRU(16, 16, batch_first=True)
            self.head = nn.Linear(16, 100, bias=False)

        def forward(self, idx, keep):
            h = self.mix(self.wte(idx))[0]
            return (
                torch.cat([self.head(part) for part in h.split(8, dim=1)], 1)[keep]
                if how == "chunks"
                else self.head(h[keep])
            )

    def loss(model, batch):
        keep = torch.arange(31).expand(4, 31) >= 9
        return F.cross_entropy(model(batch["idx"][:, :-1], keep), batch["idx"][:, 1:][keep])

    torch.manual_seed(0)
    data = [{"idx": torch.randint(0, 100, (4, 32))} for _ in range(3)]
    report, _ = live_runs.watched(lambda: live_runs.loop(Own(), loss, data))
    assert not errors(report)
    assert report.streams["text"]["offsets"].get("1") == 2 * 4 * 21
