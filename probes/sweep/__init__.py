"""A data set swept without a forward: what every sample trains, and what is odd about it."""

from __future__ import annotations

from .judge import KINDS, Judged, judge
from .known import Known, known_of
from .run import check_data, swept
from .sample import Sample, samples_of
from .tally import Tally

__all__ = ["KINDS", "Judged", "Known", "Sample", "Tally", "check_data", "judge", "known_of", "samples_of", "swept"]
