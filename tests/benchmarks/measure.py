"""How figures are taken: ratios pair by pair in one run, peaks by counting bytes, and where they come from."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the memory profiler announces itself otherwise

import torch

__all__ = ["Figure", "Pair", "Size", "compared", "cpu_seconds", "peak_bytes", "seconds", "slope"]

Run = Callable[[], Any]


@dataclass(frozen=True)
class Size:
    """How much is measured: ``name`` is ``tiny`` (a test), ``quick`` (2 cores) or ``full`` (an accelerator).

    ``match`` narrows it to the cells that hold this text.
    """

    name: str
    device: torch.device
    runs: int
    match: str = ""

    def pick(self, tiny: Any, quick: Any, full: Any) -> Any:
        """What belongs to this size."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.name]

    def wants(self, cell: str) -> bool:
        """Whether a cell is to be measured."""
        return self.match in cell


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``limit`` is what it may be at most, None where it is only shown."""

    family: str
    name: str
    cell: str
    value: float
    unit: str = ""
    limit: float | None = None
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the limit is kept; NaN keeps none."""
        return self.limit is None or self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Pair:
    """Two runs timed in turn: the median of their ratios, and the median seconds of each."""

    ratio: float
    ours: float
    other: float

    def __str__(self) -> str:
        return f"{self.ours:.3g} s / {self.other:.3g} s"


def seconds(run: Run, device: torch.device) -> float:
    """One run, started and ended with nothing else under way on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def cpu_seconds(run: Run, device: torch.device) -> float:
    """What one run takes of the processor, which other work stretches less; on another device, its seconds."""
    if device.type != "cpu":
        return seconds(run, device)
    gc.collect()
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compared(ours: Run, others: Sequence[Run], size: Size) -> list[Pair]:
    """``ours`` against each of the others, all in turn, so that whatever else the machine does meets them alike."""
    for run in (ours, *others):
        run()  # first runs pay for imports, caches and kernels
    rounds = [[seconds(run, size.device) for run in (ours, *others)] for _ in range(size.runs)]
    mine = [one[0] for one in rounds]
    return [
        Pair(
            statistics.median(one[0] / one[number] for one in rounds),
            statistics.median(mine),
            statistics.median(one[number] for one in rounds),
        )
        for number in range(1, len(others) + 1)
    ]


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most memory that tensors held during a run beyond what they held before, temporaries of kernels included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of a power law fitted to ``values`` over ``sizes``: 1 is linear."""
    x, y = ([math.log(value) for value in series] for series in (sizes, values))
    middle, height = statistics.fmean(x), statistics.fmean(y)
    return sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
