"""A loss, watched: what its heads train, and what heads beside them that read the same ids do, however far ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from alignment import Finding, InputError, Supervision
from alignment.findings import finding

from ..errors import UsageError
from ..finder.adapter import used
from ..finder.found import Discovery, Found
from ..finder.guard import beside
from ..host.sharded import processes
from ..models.adapter import Adapter, Batch
from ..models.causal_lm import CausalLMAdapter
from ..models.declared import DeclaredAdapter
from ..models.modules import unwrapped
from ..models.place import Place
from ..witness.further import distance, held_to, layers_ahead, told_weights
from ..witness.scout import reordered
from ..witness.subject import Subject
from ..witness.witness import LossFunction, Options, Witness

__all__ = ["Watch", "watch"]


#: What is said of rows that are taken for those of other samples.
ASTRAY = frozenset({"LA102", "LA103", "LA104", "LA105", "LA201", "LA202", "LA203", "LA204"})


@dataclass(frozen=True)
class Watch:
    """What was seen of a loss.

    Attributes:
        subject: the loss, read at the heads of its adapter and at those that were found beside them.
        findings: LA801 of what is trained and was not read, LA205 of heads that are left out.
        notes: what else is trained, and what the losses of heads that predict further ahead weigh.
    """

    subject: Subject
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def watch(model: nn.Module, adapter: Adapter, batch: Batch, loss_fn: LossFunction, options: Options) -> Watch:
    """Watch ``loss_fn(model, batch)``; heads that the guard finds over the ids of a text model are judged as well.

    Raises:
        UsageError: the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    subject = Subject.watched(model, adapter, batch, loss_fn, options)
    if subject.seen.calls and isinstance(adapter, CausalLMAdapter) and len(subject.seen.view.streams) == 1:
        subject = _read_by(adapter.called(subject.seen.calls), subject) or subject
    subject = _in_its_order(subject)
    adapter, seen = subject.adapter, subject.seen
    if not seen.actual:
        return Watch(subject)
    found = beside(model, adapter, batch, seen.view, loss_fn)
    others = found.discovery.found
    silent = isinstance(adapter, CausalLMAdapter) and _reaches_none(seen)
    teaches = silent and not _is_trainable(adapter.main(model))
    passed_by = silent and others and not adapter.paths and not found.called
    if passed_by and not teaches:  # another head stands in its place
        return watch(model, used(model, found.discovery, batch, loss_fn), batch, loss_fn, options)
    if teaches and found.findings and not others:  # what it teaches was not read
        return Watch(
            replace(subject, seen=replace(seen, expected=(), actual=(), findings=())), found.findings, found.notes
        )
    subject = replace(subject, seen=_trains_others(seen, [one.head for one in (*others, *found.discovery.unclear)]))
    taken: set[str] = set()
    wider = _with_found(model, adapter, subject.seen, others)
    again = _read_by(wider, subject)
    if again is None and passed_by:  # the rows of a draft that are fewer than the ids are followed
        return watch(
            model, used(model, _labelled(found.discovery, adapter, batch), batch, loss_fn), batch, loss_fn, options
        )
    if again is not None:
        subject, taken = again, {_path(one) for one in others}
    led = wider is None or len(wider.ahead) > len(taken)
    further = _looking(subject, led=led)
    subject = _read_by(further, subject) or subject
    findings = [one for one in found.findings if one.stream not in taken]
    seen = subject.seen
    weights = told_weights(seen.actual, seen.view.ahead) if seen.view.ahead else []
    return Watch(subject, tuple(findings), (*found.notes, *weights))


def _in_its_order(subject: Subject) -> Subject:
    """Declared streams whose rows seem astray, read where the samples that the model is given lie in another order."""
    adapter = subject.adapter
    shown = any(one.code in ASTRAY for one in subject.seen.findings)
    if not isinstance(adapter, DeclaredAdapter) or adapter.reordered or not shown or processes() > 1:
        return subject
    own = reordered(subject.model, adapter, subject.batch, subject.loss_fn)
    learnt, known = own.learnt.entries, adapter.learnt.entries
    alike = learnt.keys() == known.keys() and all(torch.equal(learnt[key], known[key]) for key in known)
    return subject if alike else subject.read_by(own)


def _read_by(adapter: Adapter | None, subject: Subject) -> Subject | None:
    """The loss read at more heads; None where their rows cannot be laid over the ids: a blind spot, as before."""
    if adapter is None:
        return None
    try:
        again = subject.read_by(adapter)
    except (UsageError, InputError):
        return None
    return again if again.seen.actual else None


def _is_trainable(head: nn.Module) -> bool:
    return any(one.requires_grad for one in head.parameters())


def _reaches_none(seen: Witness) -> bool:
    """Whether the loss has reached none of the heads."""
    return [one.code for one in seen.findings] == ["LA605"]


def _trains_others(seen: Witness, others: Sequence[str]) -> Witness:
    """A loss that reaches none of the judged heads is no constant where it trains others: their streams are silent.

    Where their gradient is zero and no label asks for more, nothing is wrong, and nothing was judged.
    """
    codes = [one.code for one in seen.findings]
    if not others or codes not in (["LA605"], ["LA206"]):
        return seen
    listed = ", ".join(others)
    due = [one for one in seen.expected if codes == ["LA605"] or one.count]
    silent = [
        finding("LA205", one.stream.name, f"{one.stream.name} gets no gradient: all that the loss trains is {listed}")
        for one in due
    ]
    none = f"no label of the batch asks for a target of the judged streams: all that the loss trains is {listed}"
    return replace(seen, findings=tuple(silent) or (finding("LA804", "all", none),))


def _labelled(found: Discovery, adapter: CausalLMAdapter, batch: Batch) -> Discovery:
    """Streams that were found over the ids of a text model, held to the labels of its batch."""
    key = next((key for key in adapter.label_keys if batch.get(key) is not None), None)
    ids = [Place(key) for key in adapter.id_keys]
    labelled = [
        replace(one, declaration=replace(one.declaration, labels=Place(key)))
        if key and one.declaration.ids in ids and one.declaration.labels is None
        else one
        for one in found.found
    ]
    return replace(found, found=tuple(labelled))


def _path(one: Found) -> str:
    return one.declaration.head[0].path


def _with_found(model: nn.Module, adapter: Adapter, seen: Witness, found: Sequence[Found]) -> CausalLMAdapter | None:
    """The adapter with heads that were found beside its own over its ids; None where there are none.

    A main head that is frozen and silent teaches the others (EAGLE), and is not judged.
    """
    if not found or not isinstance(adapter, CausalLMAdapter) or seen.view.masked:
        return None
    names = {module: path for path, module in model.named_modules()}
    inside = dict(unwrapped(model).named_modules())
    ids = [Place(key) for key in adapter.id_keys]
    others = {
        names[inside[_path(one)]]: one.offset
        for one in found
        if _path(one) in inside and one.declaration.ids in ids and one.declaration.objective == "next"
    }
    own = [
        names[head.module]
        for head in adapter.heads(model, seen.view)
        if not _teaches(head.module, seen.actual[head.streams[0]])
    ]
    if not others:
        return None
    far = [distance(one) for one in seen.actual]
    leads = [path for path, offset in others.items() if offset == 1 and far[0] not in {None, 1}]  # the main one
    try:
        return CausalLMAdapter(model, tuple(dict.fromkeys((*leads, *own, *others))))
    except UsageError:
        return None  # heads of several vocabularies


def _teaches(head: nn.Module, actual: Supervision) -> bool:
    untrained = not bool((actual.trained | actual.soft).any())
    return untrained and not _is_trainable(head)


def _looking(subject: Subject, *, led: bool) -> CausalLMAdapter | None:
    """The adapter with each of its heads held to its distance; None where all predict the next token.

    ``led`` says whether the first head is the main one, which does.
    """
    adapter, seen = subject.adapter, subject.seen
    if not isinstance(adapter, CausalLMAdapter) or adapter.lays_rows or seen.view.masked:
        return None
    if led and len(seen.actual) == 1:
        return None
    layers = layers_ahead(subject.model)
    distances, kin = [distance(one) for one in seen.actual], seen.view.kin or ("",)
    ahead = held_to(distances, kin, layers) if led else held_to([1, *distances], ["", *kin], layers)[1:]
    return adapter.looking(ahead) if max(ahead) > 1 else None
