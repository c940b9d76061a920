"""One forward of the watched model: what it was given, and which heads it called on which of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError
from alignment.recovery import Form

from ..errors import UsageError
from ..models.adapter import Adapter, Batch, Head, View
from ..models.called import Turns
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..models.reading import is_encoder_decoder
from ..models.rows import FURTHEST, head_rows, match_rows, rows_behind
from .alike import twins
from .declared_rows import Trail
from .head_calls import Call, signature
from .received import Received
from .rows_of_own import OwnRows

__all__ = ["Forward"]


@dataclass
class Forward:
    """One forward with gradients on.

    Attributes:
        model: as the script calls it.
        adapter: of the model.
        given: arguments of the innermost forward.
        training: whether the model was in train mode.
        begun: when, in the watcher's count of events.
        inner_seen: whether the innermost forward was seen, and not only its body.
        by_parts: whether the script called the parts of a module of its own one by one, the table of tokens first.
        outer: the labels among the arguments of its wrapper; None where no wrapper was called.
        kept_back: a loss mask, and labels, that the script holds beside the ids.
        count: how many targets its step has, as the script hands it on; None if it does not.
        calls: of its heads.
        graded: when the first gradient arrived; 0 before.
        fresh: whether there was no gradient yet for its own to be added to.
        dropped: whether the backward after it began at a constant, or at something else that never meets its logits.
        hidden: what the body gave, until the backward has passed.
        reads: what modules were called on since, until then.
        problem: why its rows cannot be read; empty if they can.
        still: whether what came back to the body's output was zero throughout.
        fused: whether something other than the heads gave the body's output a gradient, which nobody could read.
        half: whether a gradient was in half precision.
        own: what its modules have given, where none is known to feed its heads.
        fed: rows of the body that reach a head through layers of its own, by the identity of these.
        turns: counts how often each module has been called.
    """

    model: nn.Module
    adapter: Adapter
    given: Received
    training: bool
    begun: int
    inner_seen: bool = True
    by_parts: bool = False
    outer: Batch | None = None
    kept_back: Batch = field(default_factory=dict)
    count: float | None = None
    calls: list[Call] = field(default_factory=list)
    graded: int = 0
    fresh: bool = False
    dropped: bool = False
    hidden: Tensor | None = None
    reads: list[Tensor] = field(default_factory=list)
    problem: str = ""
    still: bool = False
    fused: bool = False
    half: bool = False
    own: OwnRows | Trail | None = None
    fed: dict[int, Tensor] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)
    _twins: dict[tuple[int, bool], Tensor | None] = field(default_factory=dict)
    _heads: tuple[Head, ...] | None = None
    _streams: View | None = None

    def __post_init__(self) -> None:
        if isinstance(self.adapter, DeclaredAdapter):
            self.own = Trail(self.adapter.inner(self.model), self.adapter, self.received)
        elif self.adapter.body(self.model) is None:
            self.own = OwnRows()

    @property
    def received(self) -> Batch:
        """Arguments of the innermost forward, small ones only, on the CPU."""
        return self.given.small

    @property
    def view(self) -> View:
        """Streams and labels: those that the innermost forward received, else those that its wrapper was given.

        Raises:
            InputError: no ids, or ids and labels that do not fit each other.
        """
        given = {**self.kept_back, **(self.outer or {})}
        missing = {key: value for key, value in given.items() if self.received.get(key) is None}
        if missing:
            with suppress(InputError):  # labels of a wrapper may be of another length, or of another task
                return self._view({**self.received, **missing})
        return self._view(self.received)

    def _view(self, given: Batch) -> View:
        inner = self.adapter.inner(self.model)
        if is_encoder_decoder(inner) and not isinstance(given.get("decoder_input_ids"), Tensor):
            raise InputError(f"the ids that the decoder of {type(inner).__name__} reads were not seen")
        try:
            return self.adapter.view(self.model, given)
        except (UsageError, KeyError) as error:
            raise InputError(f"the model's inputs cannot be read: {error}") from error

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that predict the streams of what was received; none where that cannot be read."""
        if self._heads is None:
            self._heads = ()
            try:
                self._streams = self._view(self.received)
                self._heads = self.adapter.heads(self.model, self._streams)
            except InputError as error:
                self.problem = str(error)
        return self._heads

    def head_of(self, module: nn.Module) -> Head | None:
        """The head that a module is."""
        return self.turns.head(self.heads, module)

    def vocab(self, head: Head) -> int:
        """The size of a head's vocabulary."""
        assert self._streams is not None
        return self._streams.streams[head.streams[0]].vocab

    def ids_of(self, head: Head) -> Tensor:
        """(R,): what a head's rows have received."""
        assert self._streams is not None
        return self._streams.streams[head.streams[0]].ids

    def note_fed(self, module: nn.Module, given: Mapping[str, Any]) -> None:
        """Layers between the body and a head are about to be called."""
        for head in self.heads:
            if head.fed is not None and head.fed[0] is module and isinstance(given.get(head.fed[1]), Tensor):
                self.fed[id(module)] = given[head.fed[1]].detach()

    def note_call(self, head: Head, inputs: Tensor | None, output: Tensor) -> Call | None:
        """A head was called on ``inputs`` and gave ``output``; None where its rows make no sense."""
        if isinstance(self.adapter, DeclaredAdapter):
            return self._note_declared(self.adapter, head, inputs, output)
        before = self.problem
        inputs = inputs if head.fed is None else self.fed.get(id(head.fed[0]))
        width, vocab = head.vocabulary(output.shape[-1]), self.vocab(head)
        if width != vocab:
            self.problem = f"the {head.name} head gives {width} scores a row, its vocabulary has {vocab} ids"
            return None
        count = output.numel() // (width * head.books)
        rows = self._rows(head, inputs, count)
        self.problem = before if self.is_candidate(head) else self.problem
        read = None
        if inputs is not None and self.hidden is not None and inputs.shape[-1] == self.hidden.shape[-1]:
            with suppress(InputError):  # a head behind layers of its own
                read = match_rows(inputs.detach(), self.hidden).cpu()
        nth = sum(one.head.module is head.module for one in self.calls)
        read = read if read is not None and len(read) == count else None
        call = Call(head, rows, read, None, signature(output), nth, alike=self._alike(inputs, rows))
        self.calls.append(call)
        return call

    def note_other(self, module: nn.Module, arguments: Mapping[str, Any], output: Any) -> None:
        """A module was called that is neither the body nor a head: rows of a head may have come through it."""
        if self.own is not None:
            self.own.note(module, arguments, output)
        else:
            given = (value for value in arguments.values() if isinstance(value, Tensor) and value.is_floating_point())
            self.reads += [value.detach() for value in given if value.dim() >= 2]

    def _note_declared(
        self, adapter: DeclaredAdapter, head: Head, inputs: Tensor | None, output: Tensor
    ) -> Call | None:
        """The same for a head of declared streams, whose logits tell how wide it is."""
        assert self._streams is not None
        if head.books > 1 and not head.places:
            head = replace(head, stacked=output.dim() > 2 and output.shape[-2] == head.books)
        rows = head.rows(output.detach())
        adapter.learn_width(head, rows.shape[-1])
        count, received = len(rows) // head.books, len(self._streams.streams[head.streams[0]])
        origin = self.own.origin(head, inputs, count) if isinstance(self.own, Trail) else None
        call = Call(head, torch.arange(count) if count == received else None, None, origin, signature(output))
        self.calls.append(call)
        return call

    def _own_rows(self, head: Head, inputs: Tensor | None, count: int, received: int) -> Tensor | None:
        if self.by_parts and self.problem:
            return None
        if count == received:
            return torch.arange(count)
        if inputs is None or not isinstance(self.own, OwnRows):
            self.problem = f"the {head.name} head gave {count} rows for {received} ids"
            return None
        try:
            return self.own.placed(inputs, count, received)
        except InputError as error:
            self.problem = str(error)
            return None

    def _rows(self, head: Head, inputs: Tensor | None, count: int) -> Tensor | None:
        assert self._streams is not None
        received = len(self._streams.streams[head.streams[0]])
        if inputs is None or self.hidden is None:
            return self._own_rows(head, inputs, count, received)
        further = head.streams[0] > 0 or any(one.head.module is head.module for one in self.calls)
        try:
            return head_rows(inputs.detach(), self.hidden, count, received, further=further).cpu()
        except InputError as error:
            fits = self.hidden.shape[:-1].numel() == received
            behind = rows_behind(self.reads, self.hidden, count) if fits else None
            self.problem = self.problem if behind is not None else str(error)
            return None if behind is None else behind.cpu()

    def _alike(self, inputs: Tensor | None, rows: Tensor | None) -> Tensor | None:
        """(R,) int64: rows of one number gave a head on ``inputs`` the same; None where it is known which."""
        assert self._streams is not None
        given, stream = self.hidden, self._streams.streams[0]
        if rows is None or inputs is None or (given is not None and signature(given)[1:] == signature(inputs)[1:]):
            return None
        if given is None and isinstance(self.own, OwnRows):
            given = inputs if len(rows) == len(stream) else self.own.among
        if given is None or given.shape[:-1].numel() != len(stream):
            return None
        behind = len(rows) == len(stream) and not (given.shape == inputs.shape and torch.equal(given, inputs))
        key = (given.data_ptr(), behind)
        if key not in self._twins:
            self._twins[key] = twins(given, stream if behind else None)
        return self._twins[key]

    def is_candidate(self, head: Head) -> bool:
        """Whether a layer is as wide as the head, and may be none."""
        return isinstance(self.adapter, CausalLMAdapter) and self.adapter.found is not None and head.streams != (0,)

    @property
    def repeated(self) -> tuple[int, ...]:
        """Which calls of its one head are trained, where it is called again over all rows; none where it is not."""
        whole = [one for one in self.calls if one.rows is not None and self._is_whole(one.rows, once_more=one.nth > 0)]
        trained = [
            one.nth for one in whole if (read := one.reading) is not None and bool((read.form != int(Form.NONE)).any())
        ]
        return tuple(trained) if len(whole) > 1 else ()

    def _is_whole(self, rows: Tensor, *, once_more: bool) -> bool:
        """Whether these are all rows; of a head that is called once more, all but the last of every sample."""
        stream = self._streams.streams[0] if self._streams is not None else None
        if stream is None or not len(stream) or not once_more:
            return torch.equal(rows, torch.arange(0 if stream is None else len(stream)))
        every = torch.arange(len(stream)).reshape(int(stream.sample.max()) + 1, -1)
        kept = len(rows) // len(every)
        return 0 <= every.shape[1] - kept <= FURTHEST and torch.equal(rows, every[:, :kept].reshape(-1))

    @property
    def lends_labels(self) -> bool:
        """Whether what it must train is said by labels, or a mask, that the script has kept back."""
        return bool(self.kept_back) and not any(self.received.get(key) is not None for key in self.adapter.label_keys)

    @property
    def lends_a_mask(self) -> bool:
        """Whether it is a mask."""
        return self.lends_labels and self.kept_back.keys() != {"labels"}

    def made_again(self) -> tuple[nn.Module, Batch]:
        """The module whose forward it was, and what that was given.

        That is its wrapper, where layers of the wrapper's own stand between the body and a head.

        Raises:
            InputError: it cannot be run again.
        """
        module = self.adapter.inner(self.model) if self.inner_seen else self.adapter.body(self.model)
        beyond = [call.head.name for call in self.calls if call.reading is not None and call.hidden is None]
        return self.given.again(module, beyond[0] if beyond and not self.inner_seen else "")
