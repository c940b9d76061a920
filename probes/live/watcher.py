"""The watcher: hooks that read what a training run does, and never change it.

No value, no gradient and no random state is touched, and what a hook of ours raises never reaches the script:
the watcher then switches itself off and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from ..host.forward_patch import bound_arguments
from ..host.sharded import must_finish
from ..models.declaration import Declaration
from ..models.modules import unwrapped
from ..ranks.drift import imprint
from .beside import Beside
from .boundaries import Boundaries
from .discovery import Discovery, Found
from .eagerly import Eagerly
from .hooks import BeforeModules
from .joined import explained
from .lines import begun_after
from .model_hooks import ModelHooks
from .optimizers import learner, may_be_copy, unwatched_models
from .search import Searches
from .step_weights import StepWeights
from .trained import Trained
from .watching import Step, Watching

__all__ = ["ENDED", "Watcher"]

#: Optimizer steps without any model whose head is known, after which nobody looks any more.
UNSEEN_STEPS = 20

#: Why a watcher stops where the script does.
ENDED = "the script ended"


class Watcher(Watching):
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
        hooks: on the model that was found; None before. A frozen one stays on trial until its logits carry a gradient.
        discovery: what was met until then.
        ungraded: per parameter that an optimizer holds, by name, whether it had no gradient in any watched step.
        imprints: of the weights before the first watched step, and as each step after it met them.
        step_weights: per step and kind of stream, what its targets weigh; told by who judges it, for other ranks.
        optimizer: whose step was the last to be watched; None before.
        learner: what an optimizer trained before any model was found; empty if none did.
        trains: called once it is clear that a model is trained.
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
        super().__init__(boundaries or Boundaries())
        self.wanted, self.done = steps, done
        self.imprints: list[dict[str, float]] = []
        self.ungraded: dict[str, bool] = {}
        self._several = several
        self.step_weights: list[dict[str, StepWeights]] = []
        self.hooks: ModelHooks | None = None
        self.eagerly = eagerly or Eagerly()
        self.discovery = Discovery(heads, streams, self.eagerly)
        self.optimizer: Optimizer | None = None
        self.trains: Callable[[], None] = lambda: None
        self.cause = self.learner = ""
        self._optimizers: WeakSet[Optimizer] = WeakSet()
        self._unseen = self._backward = 0
        self._late = self._doubtful = False
        self._looking: Any = None
        self._search = Searches(self.safely, self.with_gradients)

    @property
    def found(self) -> Found | None:
        """The model that was found; None before."""
        hooks = self.hooks
        return None if hooks is None else hooks.found

    @property
    def beside(self) -> Beside | None:
        """What is trained beside its watched heads; None before."""
        hooks = self.hooks
        return None if hooks is None else hooks.beside

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
        return [] if self.trained is None else unwatched_models(self._optimizers, self.trained.parameters)

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
        self._looking = BeforeModules(self.with_gradients(self.alone(self._look_at)))
        # workers are not watched
        self.boundaries.watch(self.safely(self._stepped), self.safely(self._returned), self._leave)

    def finish(self, cause: str = "") -> None:
        """Leave the script alone, for good; tells ``done`` once."""
        if not self.active:
            return
        self.cause = cause
        self._leave()
        if self.trained is None:
            self._give_up()
        elif cause == ENDED and not self.open:
            self.note_weights()
        try:
            self.done(self)
        finally:
            self.eagerly.end()
        self.steps, self.open = [], []  # nothing of the script's is held: it may let its model go
        self.hooks = self.trained = self.optimizer = None

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step, and all backwards of its step have ended: what a callback knows beforehand."""
        self.safely(self._stepped)(optimizer)

    def remove(self) -> None:
        """Leave no trace in this process, and tell nobody; once the script is over."""
        self._leave()
        self._search.end_again()
        self.eagerly.end()
        self.boundaries.remove()

    def _leave(self) -> None:
        self.active = False
        if self.lines is not None:
            self.lines.end()
        self.boundaries.leave()
        self._search.end()
        for one in (self._looking, self.hooks):
            if one is not None:
                one.remove()
        self._looking = None

    # -- the model -------------------------------------------------------------------------------

    def _look_at(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is about to be called, and no model that is trained has been found yet."""
        hooks = self.hooks
        if (self.trained is not None and not self._doubtful) or (hooks is not None and hooks.inside is not None):
            return
        with torch.enable_grad():
            found = self.discovery.consider(module, bound_arguments(unwrapped(module), args, kwargs))
        if self.discovery.unwatchable:
            self.finish(self.discovery.unwatchable)
        if found is None and self.active and self.found is None and self.discovery.may_search(module):
            self._search.begin(module)
        if found is None or not self.active or (self.found is not None and found.inner is self.found.inner):
            return
        doubtful = found.trained and may_be_copy(found.inner)
        if self.trained is None or (found.trained and not doubtful):
            self._doubtful = doubtful
            self._watch(found)

    def _watch(self, found: Found) -> None:
        """Watch the forwards of a model from now on; its first step shows whether a guess was right."""
        self._search.end()
        self._give_up()
        if self.discovery.may_search(found.root, found.adapter):
            self._search.begin(found.root)
        self.hooks, self._late = ModelHooks(self, found), found.begun
        if found.trained:
            self.settle()

    def _take_found(self) -> None:
        """A backward has ended: streams that are clear are watched from the next forward on."""
        guess = self.found.adapter if self.found is not None else None
        root, adapter, reason = self._search.taken(guess, lambda: explained(self.open))
        self.discovery.searched(root, reason)
        if adapter is not None:
            self._forget()
            self._watch(Found(root, adapter, trained=True))

    def settle(self) -> Trained:
        """The model that was found is trained, or is trained through."""
        if self.trained is None:
            assert self.found is not None
            self.trained = Trained(self.found.root)
            self.trains()
            if not self._doubtful:
                self._looking.remove()
            self.note_weights()
        return self.trained

    def note_weights(self) -> None:
        """What the weights are between two steps; only where other ranks are there to be compared with."""
        if self.found is not None and self.several:
            self.imprints.append(imprint(self.found.root))

    def _note_ungraded(self, optimizer: Optimizer | None, step: Step) -> None:
        """What an optimizer holds of the model, and has no gradient in any step that was trained."""
        if optimizer is not None and self.trained is not None and any(forward.graded for forward in step):
            for name, empty in self.trained.ungraded(optimizer).items():
                self.ungraded[name] = empty and self.ungraded.get(name, True)

    def _give_up(self) -> None:
        """The model on trial is none that is trained."""
        if self.found is None:
            return
        self.discovery.give_up(self.found)
        self._forget()

    def _forget(self) -> None:
        """Watch no model any more, and keep nothing of it."""
        if self.hooks is not None:
            self.hooks.remove()
        self.hooks = self.trained = None
        self.steps, self.open, self.imprints = [], [], []

    # -- its steps -------------------------------------------------------------------------------

    def _returned(self, roots: Sequence[Tensor]) -> None:
        """A backward has ended; what has come to no logits may have begun at a constant."""
        since, self._backward = self._backward, self.tick()
        if self.lines is not None:
            self.lines.returned(roots)
        if self._search.runs:
            self._take_found()
        if self.beside is not None:
            self.beside.passed(roots)
        before = [forward for forward in self.open if forward.begun > since]
        reached = any(forward.graded > since for forward in self.open)
        if before and not reached and self.trained is not None and self.trained.alone_below(roots):
            for forward in before:
                forward.dropped = True

    def _stepped(self, optimizer: Optimizer | None) -> None:
        """An optimizer has stepped, or a scaler has gone past it."""
        self._search.end_again()
        if self.trained is None:
            if optimizer is not None:
                self._unseen += 1
                self.learner = self.learner or learner(optimizer)
            if self._unseen >= UNSEEN_STEPS:
                self.finish(f"{UNSEEN_STEPS} optimizer steps without a model whose output head is known")
            return
        if optimizer is not None:
            self._optimizers.add(optimizer)
            if not self.trained.by(optimizer):
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
