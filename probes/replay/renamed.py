"""The batch with other inputs: random tokens and codes from every cut on, and in the other documents of its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.adapter import Batch
from .calls import Scene
from .cuts import Place, Places

__all__ = ["Renamed"]


@dataclass(frozen=True)
class Renamed:
    """Draws the batches of one replay, which all have the same shapes.

    Attributes:
        scene: what they are given to.
        batch: as the loss is given it.
        places: of its rows.
        usable: (n,) int64, the ids that may be put in.
        generator: they are drawn by.
    """

    scene: Scene
    batch: Batch
    places: Places
    usable: Tensor
    generator: torch.Generator

    @classmethod
    def of(cls, scene: Scene, batch: Batch, places: Places, *, seed: int, known: bool) -> Renamed:
        """Drawn from a seed; with ``known`` no id beyond the largest that every stream is seen to hold."""
        usable = scene.adapter.usable_ids(scene.model, scene.view).to(scene.view.streams[0].ids.device)
        if known:
            usable = usable[usable <= min(int(stream.ids.max()) for stream in scene.view.streams if len(stream))]
        return cls(scene, batch, places, usable, torch.Generator().manual_seed(seed))

    def plain(self) -> Batch:
        """The batch with its own inputs, made as the others are."""
        return self.cut([])

    def cut(
        self, cuts: Sequence[Place], *, suffix: bool = True, others: bool = True, since: int | None = None
    ) -> Batch:
        """The batch with other inputs from every cut on (``suffix``), and in the other documents (``others``).

        ``since`` is the first codebook that is replaced in the frame at the cut itself, all streams if None.
        """
        scene, view, usable = self.scene, self.places.view, self.usable
        ids, later = [], []
        for number, stream in enumerate(view.streams):
            mine = torch.zeros_like(stream.filler)
            for cut in cuts:
                here = stream.sample == cut.sample
                if suffix:
                    first = cut.position + (since is not None and number < since)
                    mine |= here & (self.places.layout.positions[number] >= first)
                if others:
                    mine |= here & (self.places.document[number] != cut.document)
            drawn = torch.randint(len(usable), (len(stream),), generator=self.generator).to(usable.device)
            fresh = torch.where(usable[drawn] == stream.ids, usable[(drawn + 1) % len(usable)], usable[drawn])
            ids.append(torch.where(mine, fresh, stream.ids))
            later.append(mine)
        renamed = scene.adapter.relabel(scene.model, self.batch, view, ids, int(usable[0]))
        if not cuts or not hasattr(scene.adapter, "redraw_references"):
            return renamed
        return scene.adapter.redraw_references(scene.model, renamed, later[0], self.generator)
