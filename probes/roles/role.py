"""What a token of a conversation is: who says it, or what stands around what is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

__all__ = ["SAID", "TURN", "Role", "Roles", "no_roles"]


class Role(IntEnum):
    """The role of one token."""

    NONE = 0  # padding, or of no conversation that is known
    BETWEEN = 1  # blanks behind an end of turn, and tokens that straddle two roles: trained or not, both are right
    HEADER = 2  # what opens a turn, the begin of the text included
    SYSTEM = 3
    USER = 4
    TOOL = 5
    ASSISTANT = 6
    REASONING = 7
    END = 8  # of an assistant turn

    def __str__(self) -> str:
        return _NAMES[self]


_NAMES = {
    Role.NONE: "other",
    Role.BETWEEN: "blanks between turns",
    Role.HEADER: "header",
    Role.SYSTEM: "system",
    Role.USER: "user",
    Role.TOOL: "tool",
    Role.ASSISTANT: "answer",
    Role.REASONING: "reasoning",
    Role.END: "end of turn",
}

#: Roles of messages, as the field writes them.
SAID = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "tool": Role.TOOL,
    "ipython": Role.TOOL,
    "function": Role.TOOL,
    "assistant": Role.ASSISTANT,
}
#: What belongs to an answer.
TURN = (Role.ASSISTANT, Role.REASONING, Role.END)


@dataclass(frozen=True)
class Roles:
    """The role of every token of a batch.

    Attributes:
        role: (R,) int64, of :class:`Role`.
        turn: (R,) int64, the number of the answer that a token belongs to or opens; -1 outside of answers.
        conversation: (R,) int64, -1 where none is known.
    """

    role: Tensor
    turn: Tensor
    conversation: Tensor

    def of(self, *roles: Role) -> Tensor:
        """(R,) bool: tokens of these roles."""
        return torch.isin(self.role, torch.tensor([int(role) for role in roles], device=self.role.device))


def no_roles(count: int) -> Roles:
    """The roles of ``count`` tokens of which nothing is known."""
    nothing = torch.full((count,), -1, dtype=torch.long)
    return Roles(torch.zeros(count, dtype=torch.long), nothing, nothing.clone())
