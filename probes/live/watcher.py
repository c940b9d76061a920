"""The watcher: hooks that read what a training run does, and never change it.

No value, no gradient and no random state is touched, and what a hook of ours raises never reaches the script:
the watcher then switches itself off and says so.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from ..host.forward_patch import ForwardPatch, bound_arguments
from ..host.sharded import must_finish
from ..models.adapter import Batch, Head
from ..models.called import fields_of, given_by
from ..models.codebooks import CodebookAdapter
from ..models.declaration import Declaration
from ..models.declared import DeclaredAdapter
from ..models.modules import unwrapped
from ..models.reading import decoder_of, is_encoder_decoder
from ..ranks.drift import imprint
from .beside import Beside
from .boundaries import Boundaries
from .discovery import Discovery, Found
from .eagerly import Eagerly
from .forwards import Forward
from .gradients import Gradients
from .handed_count import count_in_reach
from .hooks import AfterModules, BeforeModules
from .joined import explained
from .kept_back import kept_back
from .lines import Lines, begun_after
from .multiplied import Multiplied
from .optimizers import learner, may_be_copy, unwatched_models
from .received import Received, kept, label_entries
from .search import Search
from .step_weights import StepWeights
from .teachers import Teachers
from .trained import Trained

__all__ = ["ENDED", "Step", "Watcher"]

#: Optimizer steps without any model whose head is known, after which nobody looks any more.
UNSEEN_STEPS = 20
#: Forwards of one step that are kept; what accumulates more, or never steps an optimizer, is told by these.
MOST_FORWARDS = 512

#: Why a watcher stops where the script does.
ENDED = "the script ended"

Step = list[Forward]


@dataclass(frozen=True)
class _Parts:
    """Modules of the model that tell something when they have been called."""

    inner: nn.Module
    body: nn.Module | None
    decoder: nn.Module | None


class Watcher:
    """Watches the first ``steps`` optimizer steps of a process; ``done`` is called once, when it has seen enough.

    Args:
        steps: how many.
        heads: names of head modules.
        done: called with the watcher.
        streams: declared of the model.
        several: says whether there are other ranks, whose weights are to stay together with those of this one.
        eagerly: what lets compiled modules run eagerly meanwhile.
        boundaries: where steps end, of the watcher before this one; its own if None.

    Attributes:
        steps: the forwards of every step that was seen to its end.
        open: the forwards since.
        found: the model; None before. A frozen one stays on trial until its logits carry a gradient.
        discovery: what was met until then.
        beside: what is trained beside its watched heads; None before.
        gradients: what reads them, and knows the loss scales that were divided out.
        ungraded: per parameter that an optimizer holds, by name, whether it had no gradient in any watched step.
        imprints: of the weights before the first watched step, and as each step after it met them.
        step_weights: per step and kind of stream, what its targets weigh; told by who judges it, for other ranks.
        optimizer: whose step was the last to be watched; None before.
        lines: what the second step showed of the lines behind the findings of the first; None where it had none.
        learner: what an optimizer trained before any model was found; empty if none did.
        trains: called once it is clear that a model is trained.
        failed: the traceback of an exception of ours; empty if there was none.
        cause: why it stopped before the steps were done; empty if it did not.
    """

    def __init__(
        self,
        steps: int,
        heads: Sequence[str],
        done: Callable[[Watcher], None],
        streams: Sequence[Declaration] = (),
        *,
        several: Callable[[], bool] = lambda: False,
        eagerly: Eagerly | None = None,
        boundaries: Boundaries | None = None,
    ) -> None:
        self.wanted, self.done = steps, done
        self.steps: list[Step] = []
        self.imprints: list[dict[str, float]] = []
        self.ungraded: dict[str, bool] = {}
        self._several = several
        self.step_weights: list[dict[str, StepWeights]] = []
        self.open: Step = []
        self.found: Found | None = None
        self.eagerly = eagerly or Eagerly()
        self.discovery = Discovery(heads, streams, self.eagerly)
        self.boundaries = boundaries or Boundaries()
        self.optimizer: Optimizer | None = None
        self._teachers = Teachers()
        self.gradients = Gradients(self._safely, self._tick, lambda: self.boundaries.scale, self._teachers)
        self.trains: Callable[[], None] = lambda: None
        self.failed = self.cause = self.learner = ""
        self._optimizers: WeakSet[Optimizer] = WeakSet()
        self.active = False
        self._choosing = threading.RLock()  # each thread of a script may train a model of its own
        self._clock = self._unseen = self._backward = 0
        self._inside: Forward | None = None
        self._late = self._doubtful = False
        self._parts: Any = None
        self.beside: Beside | None = None
        self._trained: Trained | None = None
        self._looking: Any = None
        self._search: Search | None = None
        self._ended: list[Search] = []
        self._searching: AfterModules | None = None
        self._handles: list[Any] = []
        self.lines: Lines | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing has been trained: no backward has passed, and no optimizer has stepped."""
        return not (self.steps or self._unseen or self._backward)

    @property
    def answered(self) -> Step:
        """The open ones that a backward has reached, or should have."""
        return [forward for forward in self.open if forward.graded or forward.dropped]

    @property
    def unwatched(self) -> list[str]:
        """Class names of models with an output head that optimizers of the watched steps train beside the watched."""
        return [] if self._trained is None else unwatched_models(self._optimizers, self._trained.parameters)

    @property
    def several(self) -> bool:
        """Whether there are other ranks just now."""
        return self._several()

    @property
    def averaged(self) -> bool:
        """Whether the model is in a wrapper that takes the mean of the ranks' gradients: DDP, or FSDP2."""
        return self.found is not None and (
            isinstance(self.found.root, DistributedDataParallel) or must_finish(self.found.root)
        )

    def start(self) -> None:
        """Begin to watch.

        Raises:
            UsageError: torch is too old to run compiled modules eagerly.
        """
        self.eagerly.begin()
        self.active = True
        self._looking = BeforeModules(self._with_gradients(self._alone(self._look_at)))
        # workers are not watched
        self.boundaries.watch(self._safely(self._stepped), self._safely(self._returned), self._leave)

    def finish(self, cause: str = "") -> None:
        """Leave the script alone, for good; tells ``done`` once."""
        if not self.active:
            return
        self.cause = cause
        self._leave()
        if self._trained is None:
            self._give_up()
        elif cause == ENDED and not self.open:
            self._note_weights()
        try:
            self.done(self)
        finally:
            self.eagerly.end()
        self.steps, self.open = [], []  # nothing of the script's is held: it may let its model go
        self.found = self._parts = self._trained = self.optimizer = None

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step, and all backwards of its step have ended: what a callback knows beforehand."""
        self._safely(self._stepped)(optimizer)

    def remove(self) -> None:
        """Leave no trace in this process, and tell nobody; once the script is over."""
        self._leave()
        self._end_search_again()
        self.eagerly.end()
        self.boundaries.remove()

    def _leave(self) -> None:
        self.active = False
        if self.lines is not None:
            self.lines.end()
        self.boundaries.leave()
        self._end_search()
        for handle in (self._looking, *self._handles):
            if handle is not None:
                handle.remove()
        self._looking = None
        self._handles.clear()

    def _safely(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook without a graph, and without an exception that the script would see."""

        @functools.wraps(hook)
        def guarded(*args: Any, **kwargs: Any) -> None:
            if not self.active:
                return
            try:
                with torch.no_grad(), self.lines.quiet() if self.lines is not None else nullcontext():
                    hook(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the run must go on, whatever is wrong with us
                self.failed = traceback.format_exc()
                self.finish("an error of its own")

        return guarded

    def _with_gradients(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, safely, where the script has gradients on."""
        safe = self._safely(hook)

        def asked(*args: Any) -> None:
            if torch.is_grad_enabled():
                safe(*args)

        return asked

    def _alone(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, in one thread at a time."""

        @functools.wraps(hook)
        def locked(*args: Any) -> None:
            with self._choosing:
                if self.active:
                    hook(*args)

        return locked

    # -- the model -------------------------------------------------------------------------------

    def _look_at(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is about to be called, and no model that is trained has been found yet."""
        if (self._trained is not None and not self._doubtful) or self._inside is not None:
            return
        with torch.enable_grad():
            found = self.discovery.consider(module, bound_arguments(unwrapped(module), args, kwargs))
        if self.discovery.unwatchable:
            self.finish(self.discovery.unwatchable)
        if found is None and self.active and self.found is None and self.discovery.may_search(module):
            self._begin_search(module)
        if found is None or not self.active or (self.found is not None and found.inner is self._parts.inner):
            return
        doubtful = found.trained and may_be_copy(found.inner)
        if self._trained is None or (found.trained and not doubtful):
            self._doubtful = doubtful
            self._watch(found)

    def _watch(self, found: Found) -> None:
        """Watch the forwards of a model from now on; its first step shows whether a guess was right."""
        self._end_search()
        self._give_up()
        if self.discovery.may_search(found.root, found.adapter):
            self._begin_search(found.root)
        self.found, self._late = found, found.begun
        inner = found.inner
        decoder = decoder_of(inner) if is_encoder_decoder(inner) else None
        self._parts = _Parts(inner, found.adapter.body(found.root), decoder)
        self.beside = Beside(found.root, found.adapter, self._safely)
        self._handles += [ForwardPatch(inner, self._around_inner), AfterModules(self._with_gradients(self._after))]
        self._handles.append(AfterModules(self._safely(self._teachers.saw)))
        if isinstance(found.adapter, CodebookAdapter) and (fed := found.adapter.fed(found.root)) is not None:
            self._handles.append(ForwardPatch(fed[0], self._around_fed))
        if isinstance(found.adapter, DeclaredAdapter):
            self._handles.append(Multiplied(found.adapter.learnt.heads, self._with_gradients(self._multiplied)))
        if found.trained:
            self._settle()

    def _begin_search(self, module: nn.Module) -> None:
        """No adapter knows a model: see what its modules give until its first backward has ended."""
        if self._search is None:
            self._search = Search(module, self._safely)
            self._searching = AfterModules(self._with_gradients(self._search.after))

    def _end_search(self) -> None:
        if self._searching is not None:
            self._searching.remove()
        if self._search is not None:
            self._search.end()
            self._ended.append(self._search)
        self._search = self._searching = None

    def _end_search_again(self) -> None:
        """Once more where no function runs: a backward is one, and torch puts its modes back as it returns."""
        while self._ended:
            self._ended.pop().end()

    def _take_found(self) -> None:
        """A backward has ended: streams that are clear are watched from the next forward on."""
        assert self._search is not None
        guess = self.found.adapter if self.found is not None else None
        adapter = self._search.adapter(guess, lambda: explained(self.open))
        root, reason = self._search.root, self._search.reason
        self._end_search()
        self.discovery.searched(root, reason)
        if adapter is not None:
            self._forget()
            self._watch(Found(root, adapter, trained=True))

    def _settle(self) -> Trained:
        """The model that was found is trained, or is trained through."""
        if self._trained is None:
            assert self.found is not None
            self._trained = Trained(self.found.root)
            self.trains()
            if not self._doubtful:
                self._looking.remove()
            self._note_weights()
        return self._trained

    def _note_weights(self) -> None:
        """What the weights are between two steps; only where other ranks are there to be compared with."""
        if self.found is not None and self.several:
            self.imprints.append(imprint(self.found.root))

    def _note_ungraded(self, optimizer: Optimizer | None, step: Step) -> None:
        """What an optimizer holds of the model, and has no gradient in any step that was trained."""
        if optimizer is not None and self._trained is not None and any(forward.graded for forward in step):
            for name, empty in self._trained.ungraded(optimizer).items():
                self.ungraded[name] = empty and self.ungraded.get(name, True)

    def _give_up(self) -> None:
        """The model on trial is none that is trained."""
        if self.found is None:
            return
        self.discovery.give_up(self.found)
        self._forget()

    def _forget(self) -> None:
        """Watch no model any more, and keep nothing of it."""
        self.found = self.beside = self._trained = None
        self.steps, self.open, self.imprints = [], [], []
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # -- its forwards ----------------------------------------------------------------------------

    def _around_inner(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not (self.active and torch.is_grad_enabled() and module is self._parts.inner):
            return forward(*args, **kwargs)
        self._safely(self._begin)(module, bound_arguments(module, args, kwargs))
        begun = self._inside
        try:
            outputs = forward(*args, **kwargs)
        finally:
            self._inside = None
        if begun is not None:
            self._safely(self._note_fields)(begun, outputs)
            self._safely(self.gradients.note_outputs)(begun, outputs)
        return outputs

    def _begin(self, module: nn.Module, received: Batch, *, inner: bool = True) -> Forward | None:
        assert self.found is not None
        if self._trained is None:
            self.open = []  # what came before carried no gradient
        elif not self.open:
            self._note_weights()
        for before in self.open:
            if before.graded:
                before.hidden = before.own = None  # its backward has passed
                before.reads.clear()
        if len(self.open) >= MOST_FORWARDS:
            self.finish(f"{MOST_FORWARDS} forwards without an optimizer step")
            return None
        first = not self.steps and not self.open  # the one that is made again
        given = Received.of(received, self.found.adapter, self._parts.inner, first=first)
        forward = Forward(self.found.root, self.found.adapter, given, module.training, self._tick(), inner)
        mine = getattr(forward.adapter, "id_keys", ())  # where a mask can be read at all
        keys = [key for key in mine if key not in forward.adapter.label_keys]
        ids = next((received[key] for key in keys if received.get(key) is not None), None)
        text = forward.adapter.text(received) if isinstance(forward.adapter, CodebookAdapter) else None
        forward.kept_back = kept_back(ids, sys._getframe(1), text)  # noqa: SLF001 - the one way to what stands above
        forward.count = count_in_reach(sys._getframe(1))  # noqa: SLF001
        forward.fresh = self._trained is not None and self._trained.is_fresh()
        self.open.append(forward)
        self._inside = forward if inner else None
        if self.lines is not None:
            self.lines.received(forward, received)
        return forward

    def _around_fed(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Layers between the body and a head of several codebooks are about to be called."""
        if self.active and self.open:
            self._safely(self.open[-1].note_fed)(module, bound_arguments(module, args, kwargs))
        return forward(*args, **kwargs)

    def _note_fields(self, forward: Forward, outputs: Any) -> None:
        """Fields of the outputs that were declared as heads."""
        for head, _, logits in fields_of(forward.heads, outputs):
            if logits.requires_grad:
                self._settle().note_made(logits)
                self.gradients.note_call(forward, head, None, logits)

    def _multiplied(self, head: Head, inputs: Tensor | None, output: Tensor) -> None:
        """A parameter that is a head was multiplied."""
        mine = self.open[-1].head_of(head.module) if self.open and output.requires_grad else None
        if mine is not None:
            self._settle().note_made(output)
            self.gradients.note_call(self.open[-1], mine, inputs, output)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module has been called: the body, a head, a decoder or the outermost model, or none of them."""
        assert self.found is not None and self.beside is not None  # noqa: PT018 - they come together
        parts = self._parts
        if module is parts.decoder and self._inside is not None:
            self._inside.received["decoder_input_ids"] = kept(bound_arguments(module, args, kwargs).get("input_ids"))
        if module is parts.body:
            self._after_body(module, args, kwargs, output)
        elif module is self.found.root and module is not parts.inner:
            self._after_root(module, args, kwargs)
        elif self.open and (self.open[-1].hidden is not None or parts.body is None):
            head = self.open[-1].head_of(module)
            if head is None or self.open[-1].is_candidate(head):
                self.beside.saw(module, output)
            if head is None:
                self.open[-1].note_other(module, bound_arguments(module, args, kwargs), output)
            elif isinstance(output, Tensor) and output.requires_grad:
                self._after_head(head, args[0] if args else None, output)

    def _after_head(self, head: Head, inputs: Any, output: Tensor) -> None:
        assert self.beside is not None
        self._settle().note_made(output)
        if self.open[-1].is_candidate(head):
            self.beside.may_be_watched(output)
        else:
            self.beside.watched(output)
        self.gradients.note_call(self.open[-1], head, inputs, output)
        if self.lines is not None:
            self.lines.called(self.open[-1], output)

    def _after_body(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        forward = self._inside
        if forward is None:  # the script calls the body itself, below every hooked forward
            forward = self._begin(module, bound_arguments(module, args, kwargs), inner=False)
        first = given_by(output)
        if forward is not None and isinstance(first, Tensor):
            forward.hidden = first.detach()
            if first.requires_grad:
                self._settle().note_made(first)
                self.gradients.read_hidden(forward, first)

    def _after_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(kwargs)
        for one in args:
            if isinstance(one, Mapping):
                given.update(one)
        labels = label_entries(given)
        mine = list(itertools.takewhile(lambda forward: forward.outer is None, reversed(self.open)))
        for forward in mine:
            forward.outer = labels
        if len(mine) == 1 and len(self.open) == 1 and not self.steps:  # the one that is run again
            root = unwrapped(module)
            mine[0].given.note_wrapper(root, bound_arguments(root, args, kwargs))

    # -- its steps -------------------------------------------------------------------------------

    def _returned(self, roots: Sequence[Tensor]) -> None:
        """A backward has ended; what has come to no logits may have begun at a constant."""
        since, self._backward = self._backward, self._tick()
        if self.lines is not None:
            self.lines.returned(roots)
        if self._search is not None:
            self._take_found()
        if self.beside is not None:
            self.beside.passed(roots)
        before = [forward for forward in self.open if forward.begun > since]
        reached = any(forward.graded > since for forward in self.open)
        if before and not reached and self._trained is not None and self._trained.alone_below(roots):
            for forward in before:
                forward.dropped = True

    def _stepped(self, optimizer: Optimizer | None) -> None:
        """An optimizer has stepped, or a scaler has gone past it."""
        self._end_search_again()
        if self._trained is None:
            if optimizer is not None:
                self._unseen += 1
                self.learner = self.learner or learner(optimizer)
            if self._unseen >= UNSEEN_STEPS:
                self.finish(f"{UNSEEN_STEPS} optimizer steps without a model whose output head is known")
            return
        if optimizer is not None:
            self._optimizers.add(optimizer)
            if not self._trained.by(optimizer):
                return
            self._doubtful = False
            self._looking.remove()
        step = [forward for forward in self.open if forward.training or forward.graded or forward.dropped]
        step = step or self.open
        self.open = []
        if self._late:  # its first forward had begun before anyone looked
            self._late = False
        elif step:
            self._note_ungraded(optimizer, step)
            self.optimizer = optimizer or self.optimizer
            self.steps.append(step)
            if len(self.steps) >= self.wanted:
                self.finish()
            elif len(self.steps) == 1:
                self.lines = begun_after(self.steps)
