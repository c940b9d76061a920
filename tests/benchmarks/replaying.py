"""The second witness beside a forward: the loss run again with later inputs replaced, at a few cuts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Figure, Size, compared
from verification import Setting

from probes import check_loss
from probes.checks.preflight import Plan, preflight
from probes.models import adapter_for

__all__ = ["replaying"]

FAMILY = "replay"
SAMPLES = 2
#: From this hidden size on a forward costs more than what surrounds it.
LARGE = 256


class Replayed(Setting):
    """The same model on a batch of two, judged with a replay and without one."""

    def replayed(self) -> None:
        """``check_loss`` as it is called by default."""
        report = check_loss(self.model, self.batch, self.loss)
        assert report.check("causality").status == "pass", report

    def forward(self) -> None:
        """One forward without gradients, and the loss."""
        with torch.no_grad():
            self.loss(self.model, self.batch)

    def checklist(self) -> None:
        """``preflight`` as it is called by default."""
        self._preflight(replay=True)

    def checklist_alone(self) -> None:
        """``preflight --replay none``."""
        self._preflight(replay=False)

    def _preflight(self, *, replay: bool) -> None:
        plan = Plan(self.model, adapter_for(self.model), self.batch, self.loss, replay=replay)
        assert not any(found.is_error for found in preflight(plan).findings)


def replaying(size: Size) -> Iterator[Figure]:
    """Time of ``check_loss`` against a forward with the loss, and of ``preflight`` against one that replays nothing."""
    cells = size.pick(
        [(1 << 8, 16, 16)],
        [(1 << 14, 128, 128), (32000, 256, 256), (128256, 256, 256)],
        [(128256, hidden, length) for hidden in (256, 1024) for length in (256, 1024, 2048)],
    )
    for vocab, hidden, length in cells:
        cell = f"V {vocab}, H {hidden}, T {length}, {SAMPLES} samples, float32"
        if not size.wants(cell):
            continue
        setting = Replayed(vocab, hidden, length, torch.float32, size.device, SAMPLES)
        forward, alone = compared(setting.replayed, [setting.forward, setting.ours], size)
        yield Figure(
            FAMILY,
            "check_loss / forward and loss",
            cell,
            forward.ratio,
            limit=8.0 if hidden >= LARGE else None,
            detail=str(forward),
        )
        yield Figure(FAMILY, "check_loss / the same without replay", cell, alone.ratio, detail=str(alone))
        if size.name == "tiny":
            continue
        (checklist,) = compared(setting.checklist, [setting.checklist_alone], size)
        yield Figure(
            FAMILY,
            "preflight / the same without replay",
            cell,
            checklist.ratio,
            limit=1.3,
            detail=str(checklist),
        )
