"""Small streams written by hand, what must be trained on them, and losses with one planted fault."""

import torch
import torch.nn.functional as F

from alignment import IGNORE_INDEX, Stream, compare, expect, recover
from alignment.sources import infer_sources

__ = IGNORE_INDEX


def plain_stream(ids, *, name="text", vocab=100, segment=None, sample=None, filler=None, end_ids=()):
    """A stream written out by hand; one segment and sample if nothing else is said."""
    ids = torch.as_tensor(ids)
    zero = torch.zeros_like(ids)
    return Stream(
        name,
        ids,
        zero if segment is None else torch.as_tensor(segment),
        zero if sample is None else torch.as_tensor(sample),
        torch.arange(len(ids)),
        vocab,
        zero.bool() if filler is None else torch.as_tensor(filler),
        tuple(end_ids),
    )


def infer(targets, *streams):
    """Supervision of a loss that trains ``targets`` (one list per stream)."""

    def reading(wanted):
        return recover(lambda z: F.cross_entropy(z, wanted, reduction="sum"), torch.zeros(len(wanted), 128))

    return infer_sources([reading(torch.tensor(wanted)) for wanted in targets], streams)


END, BOS, EOS, VOCAB = 9, 126, 127, 128
TEXT = plain_stream(
    [*range(40, 49), END, *range(50, 59), END],
    segment=[0] * 10 + [1] * 10,
    sample=[0] * 10 + [1] * 10,
    vocab=VOCAB,
    end_ids=[END],
)
LABELS = TEXT.ids.clone()
LABELS[0:4] = LABELS[10:15] = __  # the prompts


def book(number):
    ids = torch.arange(10) + 60 + 10 * number
    ids[[0, 5]], ids[[3, 4, 9]] = BOS, EOS
    filler = [True, False, False, False, True, True, False, False, False, False]
    segment = [0] * 5 + [1] * 5
    return plain_stream(
        ids, name=f"audio[{number}]", segment=segment, sample=segment, filler=filler, vocab=VOCAB, end_ids=[EOS]
    )


BOOKS = [book(k) for k in range(3)]
STREAMS = [TEXT, *BOOKS]
EXPECTED = [expect(LABELS, TEXT)]
EXPECTED += [expect(b.ids.masked_fill(b.filler, __), b, number=n) for n, b in enumerate(BOOKS, 1)]
RIGHT = [one.target for one in EXPECTED]


def trained(targets, streams=STREAMS):
    """What a loss trains that has these targets, read off its gradient."""

    def loss(t):
        wanted = bool((t != __).any())
        return lambda z: F.cross_entropy(z, t) if wanted else z.sum() * 0

    readings = [recover(loss(t), torch.zeros(len(t), VOCAB)) for t in targets]
    return infer_sources(readings, streams)


def found(text=None, audio=None, expected=EXPECTED):
    """Findings of a loss, as (code, stream, count, severity), with other targets for some streams."""
    targets = [RIGHT[0] if text is None else text, *(RIGHT[1:] if audio is None else audio)]
    return brief(compare(expected, trained(targets)))


def brief(findings):
    return [(f.code, f.stream, f.count, f.severity) for f in findings]


def moved(stream, offset):
    """Every labelled row trained on its token ``offset`` rows further on, inside its segment."""
    wanted = expect(LABELS, stream).target if stream is TEXT else RIGHT[STREAMS.index(stream)]
    rows = torch.nonzero(wanted != __).reshape(-1)
    rows = rows[(rows + offset < len(stream)) & (stream.segment[(rows + offset) % len(stream)] == stream.segment[rows])]
    out = torch.full_like(wanted, __)
    out[rows] = stream.ids[rows + offset]
    return out


def without(targets, *rows):
    out = targets.clone()
    out[list(rows)] = __
    return out


def having(targets, **rows):
    out = targets.clone()
    for row, target in rows.items():
        out[int(row.lstrip("r"))] = target
    return out
