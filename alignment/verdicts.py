"""Every row of a stream, judged: what it is trained on against what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import compress

import torch
from torch import Tensor

from .borders import crossings
from .odds import strays, untold
from .supervision import Supervision
from .targets import never_targets

__all__ = ["Verdicts", "judge"]


@dataclass(frozen=True)
class Verdicts:
    """Every row of one stream, judged. All masks are (R,) bool and exclude each other but for ``lost`` and ``ends``.

    Attributes:
        right: trained on the expected token.
        foreign: trained on a token of the other modality.
        codebook: trained on a token of another codebook.
        astray: trained at a wrong offset, or on a token that is nowhere in the inputs.
        across: trained on a token of another sample, at whatever offset.
        border: trained on a token of another segment or sample.
        unexpected: trained on the next token where no target is expected.
        missing: expected and not trained.
        lost: missing because the model's own merge dropped the label.
        ends: missing ends (of a turn, of a message) of a kind that is trained nowhere.
    """

    right: Tensor
    foreign: Tensor
    codebook: Tensor
    astray: Tensor
    across: Tensor
    border: Tensor
    unexpected: Tensor
    missing: Tensor
    lost: Tensor
    ends: Tensor

    @cached_property
    def some(self) -> frozenset[str]:
        """The names of those that any row is; each is asked for by a rule of its own."""
        names = [one.name for one in fields(self)]
        found = torch.stack([getattr(self, name) for name in names]).any(1).tolist()
        return frozenset(compress(names, found))


def judge(number: int, expected: Supervision, actual: Supervision, streams: Sequence[Supervision]) -> Verdicts:
    """Judge every row of stream ``number``; ``streams`` are the supervisions that ``origin`` counts."""
    stream, trained = actual.stream, actual.trained
    if not actual.exact and torch.equal(actual.target, expected.target):
        nothing = torch.zeros_like(trained)
        return Verdicts(trained, *[nothing] * 9)
    known, own = actual.source >= 0, actual.origin == number
    right = trained & expected.trained & (actual.target == expected.target)
    if actual.exact:  # inferred sources do not speak against the right token
        right &= ~known | (expected.source < 0) | (own & (actual.source == expected.source))
    wrong = trained & ~right
    missing = expected.trained & ~trained & ~actual.soft
    lost = missing & expected.lost
    ends = _untrained_ends(expected, actual) & missing & ~lost if bool(missing.any()) else missing
    if not bool(wrong.any()):
        return Verdicts(right, wrong, wrong, wrong, wrong, wrong, wrong, missing, lost, ends)
    own_at = actual.source.clamp(0, max(len(stream) - 1, 0))
    step = actual.offset == 1
    never = torch.tensor(never_targets(stream)).to(actual.target)
    barred = wrong & ~expected.trained & torch.isin(actual.target, never)  # wherever it was taken from
    audio = torch.tensor([s.stream.is_audio for s in streams], device=trained.device)
    kind = audio[actual.origin.clamp(min=0)] if len(streams) else torch.zeros_like(trained)
    foreign = wrong & known & (kind != stream.is_audio) & ~barred
    codebook = wrong & known & ~own & ~foreign & ~barred
    inside = wrong & known & own & ~barred
    samples_differ = stream.sample[own_at] != stream.sample
    segments_differ = (stream.segment[own_at] != stream.segment) & (stream.segment[own_at] >= 0) & (stream.segment >= 0)
    border = inside & step & (samples_differ | segments_differ)
    astray = (inside & ~step) | (wrong & ~known & expected.trained)
    if not actual.exact and not expected.count:  # nobody says what the last rows must be trained on
        border &= crossings(actual)
        if not bool(strays(actual).any()) or untold(actual, astray):
            astray = torch.zeros_like(astray)  # what is trained is the next token, or is found elsewhere by chance
    unexpected = (inside & ~astray & ~border) | (wrong & ~known & ~expected.trained) | barred
    across = inside & samples_differ
    return Verdicts(right, foreign, codebook, astray, across, border, unexpected, missing, lost, ends)


def _untrained_ends(expected: Supervision, actual: Supervision) -> Tensor:
    """(R,) bool: rows that expect an end of a kind that is trained at none of its rows."""
    out = torch.zeros_like(expected.trained)
    for end in actual.stream.end_ids:
        wanted = expected.trained & (expected.target == end)
        if not bool((wanted & actual.trained).any()):
            out |= wanted
    return out
