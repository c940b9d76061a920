"""The roles of a batch: of conversations that are known, or read back from its ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alignment.streams import Stream

from .grammar import Grammar
from .rendered import Rendered
from .role import Role, Roles, no_roles

__all__ = ["read_roles", "roles_of"]


def roles_of(stream: Stream, known: Sequence[Rendered] = (), grammar: Grammar | None = None) -> Roles:
    """The role of every row's own token.

    Args:
        stream: the text of a batch; conversations do not go over the borders of its segments.
        known: conversations that the batch was made of, in any order; where one stands, it is taken word for word.
        grammar: of the template, for ids that none of them explains.
    """
    roles = no_roles(len(stream))
    ids, segment = stream.ids.cpu(), stream.segment.cpu()
    number = 0
    for part in torch.unique_consecutive(segment).tolist():
        if part < 0:
            continue
        rows = torch.nonzero(segment == part).reshape(-1)
        text = ids[rows].tolist()
        told = [*_known(text, known)] or ([] if grammar is None else [(0, read_roles(text, grammar))])
        for start, one in told:
            number = _write(roles, rows[start : start + len(one.ids)], one, number)
    return roles


def _write(roles: Roles, rows: Tensor, one: Rendered, number: int) -> int:
    """Put one stretch in its place; a new conversation begins where the answers are counted anew."""
    count = len(rows)
    turns = torch.tensor(one.turns[:count])
    roles.role[rows] = torch.tensor([int(role) for role in one.roles[:count]])
    roles.turn[rows] = turns
    roles.conversation[rows] = number
    return number + 1


def _known(text: Sequence[int], known: Sequence[Rendered]) -> Iterable[tuple[int, Rendered]]:
    """Where conversations stand in a text, one behind the other; the last one may be cut off."""
    at = 0
    while at < len(text):
        found = next((one for one in known if _stands(text, at, one)), None)
        if found is not None:
            yield at, found
        at += 1 if found is None else len(found.ids)


def _stands(text: Sequence[int], at: int, one: Rendered) -> bool:
    rest = tuple(text[at : at + len(one.ids)])
    return len(rest) > 1 and rest == one.ids[: len(rest)] and (len(rest) == len(one.ids) or at + len(rest) == len(text))


def read_roles(text: Sequence[int], grammar: Grammar) -> Rendered:
    """A text by what opens and ends its turns."""
    roles, turns = [Role.HEADER] * len(text), [-1] * len(text)
    state, turn, at = Role.HEADER, -1, 0
    thinking = False
    while at < len(text):
        length, role, grown = _opening(text, at, grammar)
        if length:
            if state is Role.ASSISTANT and text[at] in grammar.ends:
                roles[at], turns[at] = Role.END, turn  # what opens the next turn ends this one
            state, thinking = role, False
            turn += role is Role.ASSISTANT
            at += length
            if grown and at < len(text):
                roles[at] = Role.BETWEEN
                at += 1
            continue
        token = text[at]
        if state is Role.ASSISTANT:
            turns[at] = turn
            thinking = thinking or (grammar.think is not None and token == grammar.think[0])
            reasons = thinking or (grammar.think is not None and token == grammar.think[1])
            roles[at] = Role.REASONING if reasons else Role.ASSISTANT
            if reasons and grammar.think is not None and token == grammar.think[1]:
                thinking = False
            if token in grammar.ends:
                roles[at], state = Role.END, Role.BETWEEN
                _free_blanks(text, roles, at - 1, grammar)
        elif state is Role.BETWEEN and token in grammar.blanks:
            roles[at] = Role.BETWEEN
        elif token not in grammar.ends and state in (Role.USER, Role.SYSTEM, Role.TOOL):
            roles[at] = state
        else:
            state = Role.HEADER
        at += 1
    return Rendered(tuple(text), tuple(roles), tuple(turns))


def _free_blanks(text: Sequence[int], roles: list[Role], at: int, grammar: Grammar) -> None:
    """The blanks that a template writes between an answer and its end, which no message says."""
    while at >= 0 and roles[at] is Role.ASSISTANT and text[at] in grammar.blanks:
        roles[at] = Role.BETWEEN
        at -= 1


def _opening(text: Sequence[int], at: int, grammar: Grammar) -> tuple[int, Role, bool]:
    """How many ids from ``at`` on open a turn, of which role, and whether its last blank grew into what follows."""
    for ids, role in grammar.openings:
        if tuple(text[at : at + len(ids)]) == ids:
            return len(ids), role, False
    for ids, role in grammar.openings:
        bare = ids[:-1]
        if bare and ids[-1] in grammar.blanks and tuple(text[at : at + len(bare)]) == bare:
            return len(bare), role, True
    return 0, Role.NONE, False
