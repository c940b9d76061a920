"""Audio models with one stream per codebook: what ``check_loss`` asks of them, but for what differs by family.

Codes, labels and masks are brought to (B, T, K), so that every codebook has the rows of the sequence, text beside
them or not. Of a whole model only its loss is asked: what it hands back is laid out otherwise in each family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from alignment import IGNORE_INDEX, InputError, Stream, text_stream
from alignment.streams import NO_TOKEN

from .adapter import Batch, View, find_instance
from .renaming import labels_follow, one_sample

__all__ = ["PROMPT", "CodebookAdapter", "again", "audio_segments", "by_codebook", "filling", "masked"]


#: Text that stands before codes in a batch of ours.
PROMPT = torch.arange(3, 8)


class CodebookAdapter:
    """What the families share. Each declares where its configuration says what; its codes and heads are its own."""

    name = ""
    #: Classes of transformers, the outermost first.
    classes: tuple[str, ...] = ()
    label_keys: tuple[str, ...] = ("labels",)
    id_keys: tuple[str, ...] = ("input_ids",)
    special_ids: Mapping[str, int] = MappingProxyType({})
    #: Keys of the batch that hold (B * K, T): one sample is K of their rows.
    flat_keys: tuple[str, ...] = ()
    #: The key of the batch that is zero at padding.
    mask_key = "decoder_attention_mask"
    #: Where the module lies whose rows the heads read.
    body_at = ""
    #: Layers between that module and the head of further codebooks, and the argument by which its rows reach them.
    fed_at: tuple[str, str] | None = None
    #: Arguments that are no ids and say what the codes are: ``run`` keeps them of every forward that it watches.
    signals: tuple[str, ...] = ()
    #: Where its configuration says how many codes a head scores, and how many codebooks there are.
    vocabulary_at = count_at = ""
    #: Where it names codes that begin or fill a stream and are never a target, and those that end one.
    fillers_at: tuple[str, ...] = ()
    ends_at: tuple[str, ...] = ()

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether ``model`` is, or wraps, one of the classes."""
        return any(find_instance(model, name, "transformers") is not None for name in cls.classes)

    def inner(self, model: nn.Module) -> Any:
        """The outermost model of the classes, below any wrapper."""
        for name in self.classes:
            inner = find_instance(model, name, "transformers")
            if inner is not None:
                return inner
        raise InputError(f"{type(model).__name__} holds no {' or '.join(self.classes)}")

    def part(self, inner: Any) -> Any:
        """The model that has the codebooks: another one below it in some families."""
        return inner

    def body(self, model: nn.Module) -> nn.Module | None:
        """Whose rows the heads read."""
        return attrgetter(self.body_at)(self.part(self.inner(model)))

    def fed(self, model: nn.Module) -> tuple[nn.Module, str] | None:
        """The layers between the body and the head of further codebooks, and their argument."""
        return None if self.fed_at is None else (attrgetter(self.fed_at[0])(self.inner(model)), self.fed_at[1])

    def vocabulary(self, inner: Any) -> int:
        """How many codes a head scores."""
        return attrgetter(self.vocabulary_at)(self.part(inner).config)

    def count(self, inner: Any) -> int:
        """How many codebooks there are."""
        return attrgetter(self.count_at)(self.part(inner).config)

    def fillers(self, inner: Any) -> tuple[int, ...]:
        """Codes that begin or fill a stream and are never a target."""
        return self._named(inner, self.fillers_at)

    def ends(self, inner: Any) -> tuple[int, ...]:
        """Codes that end a stream."""
        return self._named(inner, self.ends_at)

    def _named(self, inner: Any, paths: Sequence[str]) -> tuple[int, ...]:
        config = self.part(inner).config
        found = (reduce(lambda held, name: getattr(held, name, None), path.split("."), config) for path in paths)
        return tuple(dict.fromkeys(code for code in found if isinstance(code, int)))

    # -- by family -------------------------------------------------------------------------------

    def codes(self, inner: Any, batch: Mapping[str, Any]) -> Tensor:
        """(B, T, K) int64: the code of each codebook that every position has read; ``NO_TOKEN`` where none."""
        raise NotImplementedError

    def targets(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        """(B, T, K) int64: the labels as the batch hands them, -100 where none; None without labels."""
        raise NotImplementedError

    def delays(self, inner: Any) -> tuple[int, ...]:
        """By how many frames each codebook comes later than the first, in the ids that the model reads."""
        return ()

    def segments(self, inner: Any, batch: Mapping[str, Any], rows: Stream) -> Tensor:
        """(R,) int64: which rows follow each other."""
        return rows.segment

    def of_codes(self, inner: Any, codes: Tensor, labels: Tensor) -> Batch:
        """The arguments that the model is trained with, of codes and the same as labels (B, T, K), -100 where none."""
        raise NotImplementedError

    def text(self, inner: Any, batch: Mapping[str, Any]) -> tuple[Stream, Tensor | None] | None:
        """The text stream and its labels, where the model has a text head."""
        return None

    # -- the batch -------------------------------------------------------------------------------

    def view(self, model: nn.Module, batch: Mapping[str, Any]) -> View:
        """The text stream, where there is one, and one stream per codebook over the same rows.

        Raises:
            InputError: a batch without ids, or of shapes that do not fit each other.
        """
        inner = self.inner(model)
        codes = self.codes(inner, batch)
        text = self.text(inner, batch)
        labels = self.targets(inner, batch, codes)
        if labels is not None and labels.shape != codes.shape:
            raise InputError(
                f"labels are {tuple(labels.shape)} as (samples, frames, codebooks), codes {tuple(codes.shape)}: "
                "they must agree"
            )
        books = self._books(inner, batch, codes)
        wanted = [None] * len(books) if labels is None else list(labels.reshape(-1, len(books)).T.contiguous())
        if text is None:
            return View(books, tuple(wanted), (None,) * len(books), delays=self.delays(inner))
        return View((text[0], *books), (text[1], *wanted), (None,) * (1 + len(books)))

    def _books(self, inner: Any, batch: Mapping[str, Any], codes: Tensor) -> tuple[Stream, ...]:
        mask, vocab = batch.get(self.mask_key), self.vocabulary(inner)
        if mask is not None and mask.shape != codes.shape[:2]:
            mask = None  # of another sequence: the encoder's, or one with the encoder's in front
        streams = []
        for number, book in enumerate(codes.unbind(-1)):
            rows = text_stream(book, vocab, mask=mask, placeholders=self.fillers(inner), end_ids=self.ends(inner))
            segment = self.segments(inner, batch, rows)
            streams.append(
                Stream(
                    f"audio[{number}]",
                    rows.ids,
                    segment,
                    rows.sample,
                    rows.row,
                    vocab,
                    rows.filler | again(rows.ids, segment, rows.end_ids),
                    rows.end_ids,
                )
            )
        return tuple(streams)

    def usable_ids(self, model: nn.Module, view: View) -> Tensor:
        """Ids that every head may see as an ordinary code."""
        return self.ordinary(self.inner(model), min(stream.vocab for stream in view.streams))

    def ordinary(self, inner: Any, limit: int | None = None) -> Tensor:
        """(n,) int64: codes below the limit that neither begin, fill nor end a stream."""
        free = torch.ones(self.vocabulary(inner) if limit is None else limit, dtype=torch.bool)
        free[[code for code in (*self.fillers(inner), *self.ends(inner)) if 0 <= code < len(free)]] = False
        return torch.nonzero(free).reshape(-1)

    def relabel(self, model: nn.Module, batch: Batch, view: View, ids: Sequence[Tensor], foreign: int) -> Batch:
        """The same batch with other codes, labels following."""
        books = [n for n, stream in enumerate(view.streams) if stream.is_audio]
        shape = (int(view.streams[0].sample.max()) + 1, -1, len(books))
        fixed = torch.tensor([NO_TOKEN, *self.fillers(self.inner(model))])
        fresh, renamed = [], []
        for number in books:
            stream = view.streams[number]
            held = (stream.segment < 0) | torch.isin(stream.ids, fixed.to(stream.ids))
            fresh.append(torch.where(held, stream.ids, ids[number].to(stream.ids)))
            labels = view.labels[number]
            if labels is not None:
                renamed.append(labels_follow(labels, stream, fresh[-1], foreign))
        codes = torch.stack(fresh, dim=-1).reshape(shape)
        labels = torch.stack(renamed, dim=-1).reshape(shape) if renamed else None
        return self.rewritten(self.inner(model), batch, codes, labels)

    def rewritten(self, inner: Any, batch: Batch, codes: Tensor, labels: Tensor | None) -> Batch:
        """The batch with these codes and labels (B, T, K) in place of its own."""
        raise NotImplementedError

    def without_labels(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch without labels."""
        return {key: value for key, value in batch.items() if key not in self.label_keys}

    def split(self, model: nn.Module, batch: Batch) -> list[Batch]:
        """One batch per sample."""
        codes = self.codes(self.inner(model), batch)
        size, _, books = codes.shape
        return [
            {
                key: value[index * books : (index + 1) * books]
                if key in self.flat_keys and isinstance(value, Tensor) and len(value) == size * books
                else one_sample(value, index, size)
                for key, value in batch.items()
            }
            for index in range(size)
        ]

    def check_batch(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Refuse codes of another shape or number of codebooks, as the view does.

        Raises:
            InputError: codes that the streams cannot be made of.
        """
        self.view(model, batch)

    def lora_targets(self, model: nn.Module) -> list[str] | str:
        """All linear layers."""
        return "all-linear"


def by_codebook(codes: Tensor, books: int, name: str) -> Tensor:
    """(B, T, K) of codes that are given as (B * K, T) or as (B, K, T).

    Raises:
        InputError: another shape.
    """
    if codes.dim() == 2 and codes.shape[0] % books == 0:
        return codes.reshape(-1, books, codes.shape[1]).transpose(1, 2)
    if codes.dim() == 3 and codes.shape[1] == books:
        return codes.transpose(1, 2)
    raise InputError(f"{name} have shape {tuple(codes.shape)}: they must be ({books} * samples, frames)")


def audio_segments(text: Stream, frame: Tensor, begins: int) -> Tensor:
    """(R,) int64: rows up to the end of one audio, then up to the end of the next; -1 at padding.

    The row before an audio belongs to it: it predicts the first frame. ``frame`` (R,) says where frames stand,
    ``begins`` is the placeholder that audios begin with; their last frames have another one.
    """
    ids, ends = text.ids, frame.clone()
    ends[:-1] &= ~(frame[1:] & (text.segment[1:] == text.segment[:-1])) | (
        (ids[1:] == begins) & (ids[:-1] != begins)  # one audio right behind another
    )
    before = ends.long().cumsum(0) - ends.long()
    both = torch.unique(torch.stack([text.segment, before]), dim=1, return_inverse=True)[1]
    return both.masked_fill(text.segment < 0, -1)


def filling(book: Tensor, segment: Tensor, bos: int, eos: int) -> Tensor:
    """(R,) bool: the stream's bos and, after its first one in an audio, its eos: filling of the delay pattern."""
    return (book == bos) | again(book, segment, (eos,))


def again(book: Tensor, segment: Tensor, ends: Sequence[int]) -> Tensor:
    """(R,) bool: an end code right behind itself."""
    again = torch.zeros_like(book, dtype=torch.bool)
    again[1:] = (book[1:] == book[:-1]) & (segment[1:] == segment[:-1])
    return again & torch.isin(book, torch.tensor(ends, dtype=book.dtype, device=book.device))


def masked(labels: Tensor, fillers: Sequence[int]) -> Tensor:
    """Labels without those that the model's loss leaves out itself."""
    return labels.masked_fill(torch.isin(labels, torch.tensor(fillers).to(labels)), IGNORE_INDEX)
