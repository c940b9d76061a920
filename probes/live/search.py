"""A model that no adapter knows, in its first step: which of its tensors are logits, and of which of its inputs.

Nothing can be renamed in a script that is watched. A stream is only taken where its live gradient names its targets,
these stand in one sequence of integers that the model embeds, and in no other; else nothing of the model is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..finder.adapter import FoundAdapter
from ..finder.candidates import Candidate
from ..finder.found import Discovery, Found, Unclear
from ..finder.names import Maker, head_of, named
from ..finder.own_books import of_their_own
from ..host.forward_patch import bound_arguments
from ..models.adapter import Adapter, Batch
from ..models.causal_lm import CausalLMAdapter
from ..models.modules import unwrapped
from ..models.place import Place
from ..models.token_ids import vocabularies
from .first_tape import FirstTape
from .hooks import AfterModules
from .received import kept
from .targets import Part, Sequences

__all__ = ["Search", "Searches"]


class Search:
    """Notes what is made in the first forward of a model, and what its backward brings back.

    Args:
        root: the module that the script calls.
        safely: what a hook is wrapped in.

    Attributes:
        root: the same.
        reason: why its streams are not clear; empty before, and where they are.
    """

    def __init__(self, root: nn.Module, safely: Callable[[Callable[..., None]], Any]) -> None:
        self.root, self.reason = root, ""
        self._inner = unwrapped(root)
        self._modules = dict(self._inner.named_modules())
        self._names = {module: path for path, module in self._modules.items() if path}
        self._sizes = {size for size in vocabularies(self._inner) if size > 2}
        self._tape = FirstTape(self._inner, safely)
        self._received: Batch | None = None

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is worth it: it embeds integers, and is trained."""
        parts = list(module.modules())
        return any(isinstance(one, nn.Embedding) and one.weight.requires_grad for one in parts) and len(parts) > 2

    def end(self) -> None:
        """Leave no trace in the process."""
        self._tape.remove()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module was called."""
        if module is self._inner and self._received is not None:
            self._tape.ends()  # the second forward is not looked at
        elif module is self._inner:
            self._received = {key: kept(value) for key, value in bound_arguments(module, args, kwargs).items()}
        path = self._names.get(module)
        if path is not None:
            self._tape.called(path, output)

    def adapter(self, guess: Adapter | None = None, reads: Callable[[], bool] = lambda: False) -> FoundAdapter | None:
        """A backward has ended: the model with its streams, if all that has the form of logits is clear.

        ``reason`` says what is not. None also where the streams are what the adapter ``guess`` takes for granted, or
        ``reads`` says that it explains what came back to its heads.
        """
        if self._received is None:
            return None
        sequences = Sequences(self._received, self._tape.embedded)
        found: list[Found] = []
        trained: list[Part] = []
        notes: list[str] = []
        for whole in self._wholes(sequences):
            streams, told = list(whole.streams(sequences)), head_of(whole.candidate).told(whole.candidate.shape)
            if not streams and whole.candidate.width not in self._sizes:
                notes.append(f"also trained: {told}: a choice among {whole.candidate.width}")
            elif not streams:
                self.reason = _not_clear(whole, sequences)
                return None
            found += streams
            trained += [whole] if streams else []
        if not found or (isinstance(guess, CausalLMAdapter) and self._agrees(trained, sequences, guess, reads)):
            return None
        try:
            whose = named(of_their_own(found, self._inner, self._received))
            return FoundAdapter(self.root, Discovery(whose, notes=tuple(notes)), self._received)
        except UsageError as error:
            self.reason = str(error)
            return None

    def _agrees(
        self, wholes: Sequence[Part], sequences: Sequences, guess: CausalLMAdapter, reads: Callable[[], bool]
    ) -> bool:
        """Whether all that is trained are rows of layers of its own, which lie over its ids or which it has placed."""
        heads = guess.modules(self.root)
        if not all(self._modules.get(one.maker.path) in heads for one in wholes):
            return False
        key = next((key for key in guess.id_keys if sequences.received.get(key) is not None), "")
        return all(one.lies_over(Place(key), sequences) for one in wholes) or reads()

    def _wholes(self, sequences: Sequences) -> Iterator[Part]:
        """What has the form of logits, calls of one head on parts of the rows (chunks) as one."""
        heads: dict[tuple[Maker, int], list[Candidate]] = {}
        for one in self._tape.logits():
            maker = head_of(one)
            heads.setdefault((Maker(maker.path, is_parameter=maker.is_parameter), one.width), []).append(one)
        for (maker, _), calls in heads.items():
            given = self._tape.outputs.get(maker.path, ())
            parts = [Part(one, self._tape.targets[one.made.order], head_of(one), given) for one in calls]
            chunks = _joined(parts, sequences)
            yield from parts if chunks is None else [chunks]


class Searches:
    """One search after another: what the modules of a model give is looked at until its first backward has ended.

    Args:
        safely: what a hook is wrapped in.
        training: the same, where the script has gradients on.
    """

    def __init__(self, safely: Callable[..., Any], training: Callable[..., Any]) -> None:
        self._safely, self._training = safely, training
        self._search: Search | None = None
        self._hook: AfterModules | None = None
        self._ended: list[Search] = []

    @property
    def runs(self) -> bool:
        """Whether there is one."""
        return self._search is not None

    def begin(self, module: nn.Module) -> None:
        """Search a model that no adapter knows, unless one is searched already."""
        if self._search is None:
            self._search = Search(module, self._safely)
            self._hook = AfterModules(self._training(self._search.after))

    def taken(self, guess: Adapter | None, reads: Callable[[], bool]) -> tuple[nn.Module, FoundAdapter | None, str]:
        """A backward has ended, and the search with it: the model, its streams if they are clear, and why not."""
        search = self._search
        assert search is not None
        adapter = search.adapter(guess, reads)
        self.end()
        return search.root, adapter, search.reason

    def end(self) -> None:
        """Look at no module any more."""
        if self._hook is not None:
            self._hook.remove()
        if self._search is not None:
            self._search.end()
            self._ended.append(self._search)
        self._search = self._hook = None

    def end_again(self) -> None:
        """Once more where no function runs: a backward is one, and torch puts its modes back as it returns."""
        while self._ended:
            self._ended.pop().end()


def _joined(calls: Sequence[Part], sequences: Sequences) -> Part | None:
    """Calls of one head as one, if together they have no more rows than ids, and are explained as one stream."""
    shapes = [one.target.shape for one in calls]
    if len(calls) < 2 or not 1 <= len(shapes[0]) <= 2 or len({shape[:-1] for shape in shapes}) > 1:
        return None
    if sum(math.prod(shape) for shape in shapes) > sequences.most:
        return None
    first = calls[0]
    maker = Maker(first.maker.path, is_parameter=first.maker.is_parameter)
    whole = Part(first.candidate, torch.cat([one.target for one in calls], -1), maker, first.given)
    return whole if any(whole.streams(sequences)) else None


def _not_clear(whole: Part, sequences: Sequences) -> str:
    """Which logits are not judged, and the streams file that says whose they are."""
    candidate, reads = whole.candidate, tuple(map(str, sequences.read))
    unclear = Unclear(
        whole.maker.path, candidate.shape, "which of the inputs its targets are is not clear", reads=reads
    )
    draft = "".join(f"\n{line}" for line in unclear.draft)
    return f"{unclear}. Declare it in a file for --streams, with the ids that are meant:{draft}"
