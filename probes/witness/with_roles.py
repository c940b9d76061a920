"""A batch with what its template says of it: what ends an answer, what is to be trained, and whether labels agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Convention, Finding, Stream, infer_convention
from alignment.findings import LABELS, finding

from ..models.adapter import View
from ..roles import (
    Conversation,
    Grammar,
    Rendered,
    TrainOn,
    Writer,
    check_declared,
    grammar_of,
    judge_roles,
    roles_of,
    wanted,
)

__all__ = ["Template", "template"]


@dataclass(frozen=True)
class Template:
    """What is known of the text of a batch beside its ids.

    Attributes:
        grammar: of the tokenizer's chat template; None where it cannot be read back from ids.
        known: conversations that the batch was made of.
        train_on: what was declared to be trained.
    """

    grammar: Grammar | None = None
    known: tuple[Rendered, ...] = ()
    train_on: TrainOn | None = None

    def __call__(self, view: View) -> View:
        """The view with the ends of the template, the labels that it demands where there are none, and LA208."""
        stream, labels = view.streams[0], view.labels[0]
        if stream.is_audio:
            return view
        ends = () if self.grammar is None else sorted(self.grammar.ends - {*stream.end_ids})
        stream = replace(stream, end_ids=(*stream.end_ids, *ends))
        view = replace(view, streams=(stream, *view.streams[1:]))
        roles = roles_of(stream, self.known, self.grammar)
        if not bool((roles.turn >= 0).any()):
            return self._unread(view)
        if labels is None:
            if self.train_on is None:
                return view
            demanded = stream.ids.masked_fill(~wanted(roles, self.train_on).to(stream.ids.device), IGNORE_INDEX)
            note = f"{stream.name}: the batch has no labels; expected is what --train-on {self.train_on} says"
            return _relabelled(view, demanded, note)
        named = _named(stream, labels, view.convention(0))
        if named is None:
            return view
        judged = judge_roles(stream, named, roles, self.train_on)
        return replace(view, findings=(*view.findings, *judged.findings), notes=(*view.notes, *judged.notes))

    def _unread(self, view: View) -> View:
        """No answer was found: that matters where one was declared."""
        if self.train_on is None:
            return view
        known = self.grammar is not None
        why = "no answer of its template was found in the ids" if known else "the template cannot be read from ids"
        name = view.streams[0].name
        message = f"{name}: --train-on {self.train_on} was declared, and {why}: whose text is trained was not judged"
        told: Finding = finding("LA804", name, message, basis=LABELS)
        return replace(view, findings=(*view.findings, told))


def template(
    tokenizer: Any, train_on: str | None = None, conversations: Sequence[Conversation] = (), ends: Sequence[int] = ()
) -> Template | None:
    """What a tokenizer's chat template says of batches; None where nothing is known and nothing was declared.

    Raises:
        UsageError: something was declared that needs a tokenizer, or that nobody knows.
    """
    check_declared(train_on, tokenizer, conversations)
    if tokenizer is None:
        return None
    known = tuple(map(Writer(tokenizer, ends).rendered, conversations))
    return Template(grammar_of(tokenizer, ends), known, cast("TrainOn | None", train_on))


def _relabelled(view: View, labels: Tensor, note: str) -> View:
    rest = len(view.streams) - 1
    conventions = (Convention.POSITION_ALIGNED, *(view.conventions[1:] or (None,) * rest))
    return replace(view, labels=(labels, *view.labels[1:]), conventions=conventions, notes=(*view.notes, note))


def _named(stream: Stream, labels: Tensor, declared: Convention | None) -> Tensor | None:
    """(R,) bool: the tokens that labels name; None where they follow no convention."""
    labelled = labels != IGNORE_INDEX
    convention = declared or infer_convention(labels, stream).convention
    if convention is Convention.PRE_SHIFTED:
        named = torch.zeros_like(labelled)
        named[1:] = labelled[:-1] & (stream.sample[1:] == stream.sample[:-1])
        return named
    return None if convention is Convention.INCONSISTENT else labelled
