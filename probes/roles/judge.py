"""Labels or masks against the roles of the text: LA208, and what the labels chose where nobody declared it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from alignment import IGNORE_INDEX, Finding
from alignment.findings import LABELS, Example, finding
from alignment.rules import Severity
from alignment.streams import Stream
from alignment.wording import tokens_named

from ..errors import UsageError, check_choice
from .role import Role, Roles

__all__ = ["TRAIN_ON", "Judgement", "TrainOn", "check_declared", "judge_roles", "wanted"]

#: What is to be trained: every answer, the last answer of each conversation, or the whole text.
TrainOn = Literal["assistant", "last", "all"]
TRAIN_ON: tuple[str, ...] = get_args(TrainOn)
SHOWN = 4
#: How a choice that nobody declared is stated.
CHOICES = {
    "assistant": "every answer, and nothing else",
    "last": "the last answer alone",
    "all": "the whole text",
    "no prompt": "all but what stands before the first answer",
    "nothing": "nothing",
}


@dataclass(frozen=True)
class Judgement:
    """What labels make of the roles: findings, and the choice that they follow, as notes."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Demand:
    """(R,) bool: tokens that must be labelled, and those that must not; the rest is free."""

    must: Tensor
    never: Tensor


def check_declared(train_on: str | None, tokenizer: Any, conversations: Sequence[Any] = ()) -> None:
    """Check that what was declared to be trained, or said to be in a batch, can be told.

    Raises:
        UsageError: nobody knows it, or it needs a tokenizer.
    """
    if train_on is not None:
        check_choice(train_on, "train_on", TRAIN_ON)
    if tokenizer is None and (train_on is not None or conversations):
        raise UsageError("whose text is trained is told with a tokenizer alone: give the model's own (--tokenizer)")


def wanted(roles: Roles, train_on: TrainOn) -> Tensor:
    """(R,) bool: the tokens that a reference labels."""
    if train_on == "all":
        return roles.role != Role.NONE
    return roles.of(Role.ASSISTANT, Role.REASONING, Role.END, Role.BETWEEN) & _answers(roles, train_on)


def judge_roles(stream: Stream, labelled: Tensor, roles: Roles, train_on: TrainOn | None = None) -> Judgement:
    """Hold labels to the roles of the tokens that they name.

    Args:
        stream: the text.
        labelled: (R,) bool, tokens that are targets (not the rows that predict them).
        roles: of the same tokens.
        train_on: what was declared. Undeclared, all answers, the last one alone, the whole text and all but the
            prompt are choices, which are stated; a mixture inside one conversation warns.
    """
    labelled = labelled.cpu()
    if train_on is not None:
        return Judgement(list(_declared(stream, labelled, roles, train_on)))
    chosen: Counter[str] = Counter()
    mixed = torch.zeros_like(labelled)
    for number in torch.unique(roles.conversation).tolist():
        inside = roles.conversation == number
        if number < 0 or not bool((inside & labelled).any()) or not bool((inside & (roles.turn >= 0)).any()):
            continue
        choice = _choice(labelled, roles, inside)
        chosen[choice or "mixture"] += 1
        if choice is None:
            mixed |= inside
    findings = list(_endless(stream, labelled, roles, _begun(labelled, roles)))
    if bool(mixed.any()):
        findings += _mixture(stream, labelled, roles, mixed, chosen["mixture"])
    notes = [
        f"{stream.name}: the labels train {CHOICES[choice]} in {count} conversation{'s' * (count != 1)} "
        "(undeclared: --train-on assistant, last or all says what is meant)"
        for choice, count in chosen.items()
        if choice in CHOICES
    ]
    return Judgement(findings, notes)


# -- what is demanded --------------------------------------------------------------------------------


def _answers(roles: Roles, train_on: str) -> Tensor:
    """(R,) bool: tokens of the answers that are to be trained."""
    if train_on != "last":
        return roles.turn >= 0
    out = torch.zeros_like(roles.turn, dtype=torch.bool)
    for number in torch.unique(roles.conversation).tolist():
        inside = roles.conversation == number
        if number >= 0 and int(roles.turn[inside].max()) >= 0:
            out |= inside & (roles.turn == roles.turn[inside].max())
    return out


def _demand(roles: Roles, train_on: str) -> _Demand:
    answers = _answers(roles, train_on)
    if train_on == "all":
        first = torch.zeros_like(answers)
        first[:1] = roles.conversation[:1] >= 0
        first[1:] = roles.conversation[1:] != roles.conversation[:-1]
        free = roles.of(Role.NONE, Role.BETWEEN) | first  # nothing predicts the first token
        return _Demand(~free, torch.zeros_like(answers))
    told = roles.of(Role.ASSISTANT, Role.END) & answers
    free = roles.of(Role.NONE, Role.BETWEEN) | (roles.of(Role.REASONING, Role.END) & answers)
    return _Demand(told, ~told & ~free)


def _declared(stream: Stream, labelled: Tensor, roles: Roles, train_on: str) -> Iterator[Finding]:
    demand = _demand(roles, train_on)
    known = stream.segment.cpu() >= 0
    extra, missing = labelled & demand.never & known, demand.must & ~labelled & known
    endless = list(_endless(stream, labelled, roles, demand.must & known))
    yield from endless
    missing &= ~roles.of(Role.END) if endless else missing
    rows = extra | missing
    if not bool(rows.any()):
        return
    told = []
    if bool(extra.any()):
        told.append(f"{int(extra.sum())} tokens that it leaves out are labelled ({_by_role(roles, extra, labelled)})")
    if bool(missing.any()):
        told.append(f"{int(missing.sum())} that it names are not ({_lacking(roles, missing)})")
    message = f"--train-on {train_on} was declared, and {', and '.join(told)}"
    yield _wrong_role(stream, rows, labelled, message, "error")


def _wrong_role(stream: Stream, rows: Tensor, labelled: Tensor, message: str, severity: Severity) -> Finding:
    examples = _examples(stream, rows, labelled)
    told = f"{stream.name}: {message}"
    return finding(
        "LA208", stream.name, told, count=int(rows.sum()), severity=severity, basis=LABELS, examples=examples
    )


def _endless(stream: Stream, labelled: Tensor, roles: Roles, must: Tensor) -> Iterator[Finding]:
    """LA203: answers are trained, and the end of none."""
    ends = must & roles.of(Role.END)
    if not bool(ends.any()) or bool((ends & labelled).any()):
        return
    message = (
        f"{stream.name}: {int(ends.sum())} answers end in what no label names ({_tokens(stream, ends)}): the "
        "model never learns to stop"
    )
    examples = _examples(stream, ends, labelled)
    yield finding("LA203", stream.name, message, count=int(ends.sum()), basis=LABELS, examples=examples)


# -- what was chosen ---------------------------------------------------------------------------------


def _choice(labelled: Tensor, roles: Roles, inside: Tensor) -> str | None:
    """The choice that the labels of one conversation follow; None for a mixture."""
    for choice in ("assistant", "last", "all", "no prompt"):
        demand = _prompt_free(roles, inside) if choice == "no prompt" else _demand(_within(roles, inside), choice)
        ends = roles.of(Role.END)  # whether answers end is LA203's
        if not bool((inside & ((demand.must & ~ends & ~labelled) | (demand.never & labelled))).any()):
            return choice
    return None


def _begun(labelled: Tensor, roles: Roles) -> Tensor:
    """(R,) bool: tokens of answers of which anything said is labelled."""
    key = roles.conversation * (int(roles.turn.max()) + 2) + roles.turn + 1
    inside = roles.turn >= 0
    trained = torch.unique(key[inside & labelled & roles.of(Role.ASSISTANT)])
    return inside & torch.isin(key, trained)


def _within(roles: Roles, inside: Tensor) -> Roles:
    return Roles(
        roles.role.masked_fill(~inside, int(Role.NONE)),
        roles.turn.masked_fill(~inside, -1),
        roles.conversation.masked_fill(~inside, -1),
    )


def _prompt_free(roles: Roles, inside: Tensor) -> _Demand:
    """Everything from the first answer on, and nothing before it."""
    first = int(torch.nonzero(inside & (roles.turn >= 0))[0])
    after = torch.arange(len(inside)) >= first
    free = roles.of(Role.NONE, Role.BETWEEN, Role.REASONING)
    return _Demand(inside & after & ~free, inside & ~after & ~roles.of(Role.NONE, Role.BETWEEN))


def _mixture(stream: Stream, labelled: Tensor, roles: Roles, mixed: Tensor, count: int) -> Iterator[Finding]:
    demand = _demand(_within(roles, mixed), "assistant")
    extra, missing = mixed & labelled & demand.never, mixed & demand.must & ~labelled
    parts = []
    if bool(extra.any()):
        parts.append(f"{int(extra.sum())} tokens that no answer says are trained ({_by_role(roles, extra, labelled)})")
    if bool(missing.any()):
        parts.append(f"{int(missing.sum())} tokens of answers are not ({_lacking(roles, missing)})")
    message = (
        f"in {count} conversation{'s' * (count != 1)} the labels follow no choice that we know: {', and '.join(parts)}"
    )
    rows = extra | missing
    yield _wrong_role(stream, rows, labelled, message, "warning")


# -- in words ----------------------------------------------------------------------------------------


def _by_role(roles: Roles, rows: Tensor, labelled: Tensor) -> str:
    """Tokens by their role; a header right before a labelled answer is told as that."""
    opens = torch.zeros_like(rows)
    answer = labelled & roles.of(Role.ASSISTANT, Role.REASONING)
    header = roles.of(Role.HEADER) & rows
    ahead = answer.clone()
    for _ in range(int(header.sum())):  # a header is a run of a few tokens
        before = torch.zeros_like(ahead)
        before[:-1] = ahead[1:]
        grown = header & before & ~opens
        if not bool(grown.any()):
            break
        opens |= grown
        ahead = grown
    told = []
    for role in Role:
        count = int((rows & (roles.role == role) & ~opens).sum())
        if count:
            told.append(f"{count} {_ROLE_WORDS.get(role, str(role))}")
    if bool(opens.any()):
        told.append(f"{int(opens.sum())} of the header before an answer: the mask begins early")
    return ", ".join(told)


_ROLE_WORDS = {Role.ASSISTANT: "of other answers", Role.END: "ends of other answers", Role.NONE: "of no conversation"}


def _lacking(roles: Roles, rows: Tensor) -> str:
    """Where tokens of answers have no label: whole answers, first tokens, ends, or some inside."""
    whole = first = ends = some = 0
    keys = torch.stack([roles.conversation, roles.turn])
    for key in torch.unique(keys[:, rows], dim=1).T:
        mine = (keys == key[:, None]).all(0) & roles.of(Role.ASSISTANT, Role.END)
        lost = mine & rows
        said = mine & roles.of(Role.ASSISTANT)
        if int(key[1]) < 0:
            some += int(lost.sum())
        elif bool((lost & said).any()) and bool((lost[said]).all()):
            whole += 1
        else:
            opening = said & (said.long().cumsum(0) == 1)
            first += bool((lost & opening).any())
            ends += bool((lost & roles.of(Role.END)).any())
            some += int((lost & said & ~opening).sum())
    rest = int((rows & ~roles.of(Role.ASSISTANT, Role.END, Role.REASONING)).sum())
    some = max(some, rest)
    told = [
        f"{count} {what}"
        for count, what in (
            (whole, "whole answers"),
            (first, "first tokens of answers: the mask begins late"),
            (ends, "ends of answers"),
            (some, "other tokens"),
        )
        if count
    ]
    return ", ".join(told)


def _tokens(stream: Stream, rows: Tensor) -> str:
    return tokens_named(torch.unique(stream.ids.cpu()[rows]).tolist())


def _examples(stream: Stream, rows: Tensor, labelled: Tensor) -> tuple[Example, ...]:
    """Rows that predict the tokens in question."""
    out = []
    for at in torch.nonzero(rows).reshape(-1)[:SHOWN].tolist():
        token, place = int(stream.ids[at]), int(stream.row[at])
        given = token if bool(labelled[at]) else IGNORE_INDEX
        hoped = IGNORE_INDEX if bool(labelled[at]) else token
        out.append(Example(stream.name, int(stream.sample[at]), max(place - 1, 0), given, hoped, place or -1))
    return tuple(out)
