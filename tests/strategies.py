"""Every hypothesis strategy of the tests. Cases are plain tuples, so that a failing one reads as itself."""

import copy
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from alignment import IGNORE_INDEX, text_stream
from probes.batches.barcoded import CODEBOOKS, Sample, collate
from probes.models.higgs import SPECIAL_IDS

FIRST_ID = 10
PAD = 0
AUDIO_IN, AUDIO_OUT = SPECIAL_IDS["<|AUDIO|>"], SPECIAL_IDS["<|AUDIO_OUT|>"]
END = SPECIAL_IDS["<|eot_id|>"]

#: Which of ``n`` tokens are labelled.
MASKS = {
    "all": lambda n: [True] * n,
    "prompt masked": lambda n: [i >= n // 2 for i in range(n)],
    "end only": lambda n: [i == n - 1 for i in range(n)],
    "alternating": lambda n: [i % 2 == 0 for i in range(n)],
    "nothing": lambda n: [False] * n,
}
masks = st.sampled_from(list(MASKS))
sides = st.sampled_from(["right", "left"])


def padded(rows, fill, side, extra=0):
    """(B, T): rows of unequal length, filled on one side."""
    width = max(map(len, rows)) + extra
    blanks = [[fill] * (width - len(row)) for row in rows]
    pairs = zip(rows, blanks, strict=True)
    return torch.tensor([[*blank, *row] if side == "left" else [*row, *blank] for row, blank in pairs])


# -- plain text -------------------------------------------------------------------------------------


class Document(NamedTuple):
    """One document: its ids, and the name of its mask."""

    ids: tuple[int, ...]
    mask: str

    @property
    def labels(self):
        return [i if on else IGNORE_INDEX for i, on in zip(self.ids, MASKS[self.mask](len(self.ids)), strict=True)]


@dataclass(frozen=True)
class TextBatch:
    """A batch of samples, each packed from documents and padded on one side."""

    samples: tuple[tuple[Document, ...], ...]
    side: str = "right"
    extra: int = 0

    def _padded(self, rows, fill):
        return padded(rows, fill, self.side, self.extra)

    def _rows(self, of):
        return [[value for document in sample for value in of(document)] for sample in self.samples]

    @property
    def ids(self):
        """(B, T)."""
        return self._padded(self._rows(lambda d: d.ids), PAD)

    @property
    def mask(self):
        """(B, T)."""
        return self._padded(self._rows(lambda d: [1] * len(d.ids)), 0)

    @property
    def documents(self):
        """(B, T)."""
        rows = [[n for n, d in enumerate(sample) for _ in d.ids] for sample in self.samples]
        return self._padded(rows, len(max(self.samples, key=len)))

    @property
    def labels(self):
        """(B, T), position-aligned."""
        return self._padded(self._rows(lambda d: d.labels), IGNORE_INDEX)

    @property
    def pre_shifted(self):
        """(B, T): the label of each row's next token, within documents."""
        return self._padded(self._rows(lambda d: [*d.labels[1:], IGNORE_INDEX]), IGNORE_INDEX)

    @property
    def stream(self):
        """The text stream, with padding and documents."""
        vocab = int(self.ids.max()) + 1
        return text_stream(self.ids, vocab, mask=self.mask, documents=self.documents)

    @property
    def targets(self):
        """(R,): what next-token training must train, written out independently of the engine."""
        return self.pre_shifted.reshape(-1)


@st.composite
def text_batches(draw, *, unique=None, packed=True):
    """Batches of 1..4 samples; ``unique`` ids, repeated ones, or either if None."""
    fresh = count(FIRST_ID)
    distinct = draw(st.booleans()) if unique is None else unique
    repeated = st.integers(FIRST_ID, FIRST_ID + 2)

    def document():
        length = draw(st.integers(1, 9))
        ids = tuple(next(fresh) if distinct else draw(repeated) for _ in range(length))
        return Document(ids, draw(masks))

    samples = [
        tuple(document() for _ in range(draw(st.integers(1, 3 if packed else 1))))
        for _ in range(draw(st.integers(1, 4)))
    ]
    return TextBatch(tuple(samples), draw(sides), draw(st.integers(0, 2)))


# -- Higgs ------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """Text tokens, and the name of their mask."""

    length: int
    mask: str


class End(NamedTuple):
    """An end of turn."""

    labelled: bool


class Reference(NamedTuple):
    """A reference audio of so many codes."""

    frames: int


class Target(NamedTuple):
    """A target audio of so many codes, trained or not."""

    frames: int
    trained: bool


@dataclass(frozen=True)
class HiggsCase:
    """A Higgs batch: the pieces of every sample in order, text before, between and after its audios."""

    samples: tuple[tuple[NamedTuple, ...], ...]
    use_delay_pattern: bool

    def batch(self):
        """The collated batch; ids and codes count up, so that each stands for itself."""
        ids, codes = count(FIRST_ID), count()
        samples = [Sample() for _ in self.samples]
        for sample, pieces in zip(samples, self.samples, strict=True):
            for piece in pieces:
                _add(sample, piece, ids, codes)
        return collate(samples, use_delay_pattern=self.use_delay_pattern)


def _add(sample, piece, ids, codes):
    if isinstance(piece, Text):
        for on in MASKS[piece.mask](piece.length):
            sample.add(next(ids), label=on)
    elif isinstance(piece, End):
        sample.add(END, label=piece.labelled)
    elif isinstance(piece, Reference):
        sample.add_reference(_codes(piece.frames, codes))
    else:
        sample.add_target(_codes(piece.frames, codes), trained=piece.trained)


def _codes(frames, codes):
    values = [next(codes) % 1024 for _ in range(CODEBOOKS * frames)]
    return torch.tensor(values, dtype=torch.long).reshape(CODEBOOKS, frames)


_frames = st.integers(0, 3)  # of codes: a bos and an eos frame come on top
_pieces = st.one_of(
    st.builds(Text, st.integers(1, 5), masks),
    st.builds(End, st.booleans()),
    st.builds(Target, _frames, st.booleans()),
    st.builds(Reference, _frames),
)
higgs_cases = st.builds(
    HiggsCase,
    st.lists(st.lists(_pieces, min_size=1, max_size=6).map(tuple), min_size=1, max_size=4).map(tuple),
    st.booleans(),
)


# -- raw sequences with placeholders -------------------------------------------------------------------


@dataclass(frozen=True)
class RawBatch:
    """Raw sequences for a merge: a sample is a tuple of token ids and of ``(placeholder, frames)``."""

    samples: tuple[tuple[int | tuple[int, int], ...], ...]
    raw_side: str
    side: str
    round_to: int

    @property
    def ids(self):
        """(B, T)."""
        return padded([[_id(token) for token in sample] for sample in self.samples], PAD, self.raw_side)

    @property
    def mask(self):
        """(B, T)."""
        return padded([[1] * len(sample) for sample in self.samples], 0, self.raw_side)

    @property
    def labels(self):
        """(B, T): every second id is labelled, placeholders too where it falls on one."""
        rows = [[_id(token) if i % 2 else IGNORE_INDEX for i, token in enumerate(sample)] for sample in self.samples]
        return padded(rows, IGNORE_INDEX, self.raw_side)

    def frames(self, placeholder):
        """(S,): frames of each audio of one kind, in order."""
        pieces = [t for s in self.samples for t in s if isinstance(t, tuple)]
        return torch.tensor([n for token, n in pieces if token == placeholder], dtype=torch.long)


def _id(token):
    return token[0] if isinstance(token, tuple) else token


_raw_tokens = st.one_of(
    st.integers(FIRST_ID, FIRST_ID + 50), st.tuples(st.sampled_from([AUDIO_OUT, AUDIO_IN]), st.integers(1, 12))
)
raw_batches = st.builds(
    RawBatch,
    st.lists(
        st.lists(_raw_tokens, min_size=1, max_size=10)
        .filter(lambda s: sum(isinstance(t, tuple) for t in s) <= 3)
        .map(tuple),
        min_size=1,
        max_size=4,
    ).map(tuple),
    sides,
    sides,
    st.sampled_from([8, 1]),
)

# -- mappings --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapping:
    """Rows of several streams, each trained on some token of some stream.

    ``targets[s][r]`` is a number over all rows of all streams, the total for "no input", or None if untrained.
    """

    usable: tuple[int, ...]
    targets: tuple[tuple[int | None, ...], ...]


@st.composite
def mappings(draw):
    """Any mapping whatever of 1..3 streams, with a vocabulary from 2 ids."""
    usable = tuple(sorted(draw(st.sets(st.integers(0, 40), min_size=2, max_size=12))))
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3))
    target = st.one_of(st.none(), st.integers(0, sum(sizes)))
    return Mapping(usable, tuple(tuple(draw(target) for _ in range(size)) for size in sizes))


# -- files -----------------------------------------------------------------------------------------

_keys = st.sampled_from(["messages", "role", "content", "type", "text", "audio_url"])
_scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
json_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["messages", "role", "content", "type", "text", "audio_url"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)


def _places(value, path=()):
    """Every place inside a JSON value, the value itself included."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from _places(part, (*path, key))


@st.composite
def damaged_json(draw, value):
    """``value`` with one place inside it replaced by any other value, or taken out."""
    value = copy.deepcopy(value)
    *way, last = draw(st.sampled_from([path for path in _places(value) if path]))
    inside = value
    for key in way:
        inside = inside[key]
    if draw(st.booleans()):
        del inside[last]
    else:
        inside[last] = draw(json_values)
    return value


@st.composite
def damaged_bytes(draw, raw):
    """``raw`` cut off, with a piece doubled, or with a few bytes replaced."""
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 40)))
    return draw(st.sampled_from([raw[:start], raw[:end] + raw[start:], raw[:start] + draw(st.binary()) + raw[end:]]))
