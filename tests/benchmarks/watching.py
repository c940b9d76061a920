"""What `run` costs a training: watched steps against length, vocabulary, batch and codebooks, and its first step."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from measure import Figure, Size, peak_bytes, slope
from scaling import LIMIT, Books, loss, shown
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes.live.launch import Ended
from probes.processes.session import Session, Settings
from probes.records.choice import Choice

__all__ = ["watching"]

#: Steps of a training, and those that are watched: the last of them is left out, as it is then that the run is judged.
STEPS, WATCHED = 5, 4
HIDDEN = 64


class Own(nn.Module):
    """A module of one's own, whose head `run` has to find."""

    def __init__(self, vocab: int, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, HIDDEN)
        layer = nn.TransformerEncoderLayer(HIDDEN, 4, 4 * HIDDEN, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(HIDDEN, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T, V) logits."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.body(self.embed(ids), mask=mask, is_causal=True))


def _next(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@dataclass(frozen=True)
class Training:
    """A few steps of a loop, with and without us; of several codebooks where ``books`` says how many."""

    vocab: int
    length: int
    batch: int = 1
    known: bool = True
    books: int = 0

    def seconds(self, *, watched: bool) -> list[float]:
        """CPU time of every step."""
        torch.manual_seed(0)
        model, loss_of = self._model()
        shape = (STEPS, self.batch, *([self.books] if self.books else []), self.length)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        times = [time.process_time()]
        with contextlib.ExitStack() as stack:
            if watched:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                session = stack.enter_context(Session(Settings(WATCHED, (), False, {}, Choice(), list)))
                session.begin()
            for ids in torch.randint(3, self.vocab, shape):
                loss_of(ids).backward()
                optimizer.step()
                optimizer.zero_grad()
                times.append(time.process_time())
            if watched:
                session.end(Ended(0))
        return [late - early for early, late in pairwise(times)]

    def _model(self) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        if self.books:
            books = Books(self.vocab, self.books, HIDDEN)
            return books, lambda codes: loss(books, {"codes": codes})
        if not self.known:
            own = Own(self.vocab)
            return own, lambda ids: _next(own(ids), ids)
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=self.vocab, num_hidden_layers=1, **sizes)).train()
        return model, lambda ids: _next(model(input_ids=ids).logits, ids)

    def compared(self, runs: int) -> tuple[float, float, float, float]:
        """Medians of the first step and of later ones without us, and of the same while they are watched."""
        pairs = [(self.seconds(watched=False), self.seconds(watched=True)) for _ in range(runs)]
        firsts = [statistics.median(one[side][0] for one in pairs) for side in (0, 1)]
        later = [statistics.median(t for one in pairs for t in one[side][1 : WATCHED - 1]) for side in (0, 1)]
        return firsts[0], later[0], firsts[1], later[1]

    def peak(self, device: torch.device) -> int:
        """The most bytes of tensors in a watched training."""
        return peak_bytes(lambda: self.seconds(watched=True), device)


def watching(size: Size) -> Iterator[Figure]:
    """Per dimension, the exponent of what a watched step takes more; and what the first step takes more."""
    few = size.name == "tiny"
    Training(256, 16).compared(1)  # imports
    series: dict[str, tuple[Sequence[int], dict[str, int]]] = {
        "length": ((32, 64) if few else (256, 1024, 4096), {"vocab": 256 if few else 8192}),
        "vocab": ((256, 512) if few else (16384, 65536, 131072), {"length": 32 if few else 256}),
        "batch": ((1, 2) if few else (1, 4, 16), {"vocab": 256 if few else 8192, "length": 32 if few else 256}),
        "books": ((2, 4) if few else (4, 8, 16), {"vocab": 256 if few else 16384, "length": 32 if few else 128}),
    }
    for dimension, (sizes, fixed) in series.items():
        cells = [Training(**{**fixed, dimension: value}) for value in sizes]
        taken = [cell.compared(size.runs) for cell in cells]
        ours = [max(after - before, 1e-6) for _, before, _, after in taken]
        peaks = [cell.peak(size.device) for cell in cells]
        for what, values, unit, limit in (
            ("CPU time that a watched step takes more", ours, "s", None if few else LIMIT),
            ("CPU time of the step alone", [before for _, before, _, _ in taken], "s", None),
            ("peak memory of a watched training", peaks, "B", None if few else LIMIT),
        ):
            detail = shown(sizes, values, unit)
            yield Figure(
                "watching", f"run, exponent of {what}", dimension, slope(sizes, values), limit=limit, detail=detail
            )
    for known, name in ((True, "a known model"), (False, "a module of one's own")):
        cell = Training(*((256, 32) if few else (32768, 256)), known=known)
        first, alone, seen, later = cell.compared(size.runs)
        more = max(seen - first, 0.0)
        detail = f"{more:.3f} s more in the first step, {max(later - alone, 0.0):.3f} s in a later one of {alone:.3f} s"
        yield Figure("watching", "run, the first step more / a step of its own", name, more / alone, detail=detail)
