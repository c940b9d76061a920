"""Who says what: conversations read, written out by their chat template, and the role of every token."""

from __future__ import annotations

from .forms import Conversation, conversation_of, read_conversations
from .grammar import Grammar, grammar_of
from .judge import TRAIN_ON, Judgement, TrainOn, check_declared, judge_roles, wanted
from .reading import read_roles, roles_of
from .rendered import Rendered, Writer, trained
from .role import Role, Roles

__all__ = [
    "TRAIN_ON",
    "Conversation",
    "Grammar",
    "Judgement",
    "Rendered",
    "Role",
    "Roles",
    "TrainOn",
    "Writer",
    "check_declared",
    "conversation_of",
    "grammar_of",
    "judge_roles",
    "read_conversations",
    "read_roles",
    "roles_of",
    "trained",
    "wanted",
]
