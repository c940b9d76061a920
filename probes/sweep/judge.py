"""One sample judged by its labels: how much of it is trained, of whose text, and what is odd about it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from alignment.labels import IGNORE_INDEX

from ..roles import Rendered, Role, read_roles
from .known import Known
from .sample import Sample

__all__ = ["KINDS", "Judged", "judge"]

#: What may be odd about a sample, in the order in which it is told.
KINDS = {
    "no-target": "nothing of the sample is trained",
    "labels-elsewhere": "labels name neither their own token nor the next one",
    "out-of-range": "an id or a label lies outside the vocabulary",
    "padding-trained": "padding has labels",
    "no-end": "an answer is trained, and the end that follows it is not",
    "begins-early": "the header right before an answer is trained",
    "begins-late": "the first tokens of an answer are not trained, though the rest is",
    "stops-early": "the last tokens of an answer are not trained, though the rest is",
    "stops-late": "what opens the next turn is trained",
    "wrong-role": "text of another role is trained, or an answer is not",
    "cut-off": "the end is cut off by the greatest length",
    "open-end": "the last answer has no end",
    "double-begin": "the text begins with its first token twice",
    "empty-answer": "an answer says nothing",
}
PROMPT = (Role.SYSTEM, Role.USER, Role.TOOL)
#: So many tokens too few at an end of an answer are a border that is off; more are a part left out.
NEAR = 3


@dataclass
class Judged:
    """What a sample shows.

    Attributes:
        tokens: how many it has, padding not counted.
        targets: how many of them a model is trained to predict; nothing predicts the first.
        kinds: what is odd about it (of ``KINDS``), and at which token that shows best.
        roles: per role its tokens, and how many of them are trained.
        answers: trained answers that have an end, and those whose end is trained.
        choice: what its labels train: ``answers``, ``last``, ``all``, ``no prompt``, ``nothing``; empty if neither.
        labelled: which tokens its labels name.
        ahead: whether labels stand a row before the tokens that they name.
        digest: of its tokens and labels.
    """

    tokens: int
    targets: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    roles: dict[Role, list[int]] = field(default_factory=dict)
    answers: list[int] = field(default_factory=lambda: [0, 0])
    choice: str = ""
    labelled: Sequence[bool] = ()
    ahead: bool = False
    digest: int = 0

    def odd(self, kind: str, at: int) -> None:
        """Note what is odd, at its first place."""
        self.kinds.setdefault(kind, at)


def judge(sample: Sample, known: Known) -> Judged:
    """Judge a sample by itself."""
    ids = sample.ids
    labels = list(ids) if sample.labels is None else list(sample.labels)
    told = Judged(len(ids), labelled=[label != IGNORE_INDEX for label in labels], digest=_digest(ids, labels))
    _conventions(told, ids, labels)
    wild = {number for number in {*ids, *labels} if _is_wild(number, known)}
    told.targets = sum(told.labelled[1:])
    found = {
        "out-of-range": next((at for at in range(len(ids)) if wild & {ids[at], labels[at]}), None) if wild else None,
        "padding-trained": len(ids) - 1 if sample.padded else None,
        "no-target": None if told.targets else 0,
        "double-begin": 1 if known.begin >= 0 and ids[:2] == (known.begin, known.begin) else None,
        "empty-answer": len(ids) - 1 if sample.silent else None,
    }
    told.kinds |= {kind: at for kind, at in found.items() if at is not None}
    roles = sample.told or (None if known.grammar is None else read_roles(ids, known.grammar))
    if roles is not None and any(turn >= 0 for turn in roles.turns):
        _by_role(told, roles, known)
    elif known.ends:
        _by_ends(told, ids, known)
    if sample.cut or _is_full(told, ids, known):
        told.kinds.pop("open-end", None)
        told.odd("cut-off", len(ids) - 1)
    return told


def _conventions(told: Judged, ids: Sequence[int], labels: Sequence[int]) -> None:
    """Whether labels name their own tokens, the next ones, or neither."""
    strange = [at for at, label in enumerate(labels) if label not in (ids[at], IGNORE_INDEX)]
    if not strange:
        return
    if any(label not in (after, IGNORE_INDEX) for label, after in zip(labels, ids[1:], strict=False)):
        told.odd("labels-elsewhere", strange[0])
        return
    told.ahead, told.labelled = True, [False, *told.labelled[:-1]]


def _is_wild(number: int, known: Known) -> bool:
    return number != IGNORE_INDEX and (number < 0 or 0 < known.vocabulary <= number)


def _is_full(told: Judged, ids: Sequence[int], known: Known) -> bool:
    """Whether a sample is as long as it may be, and ends in what is trained and is no end."""
    return 0 < known.longest <= len(ids) and ids[-1] not in known.ends and told.labelled[-1]


def _digest(ids: Sequence[int], labels: Sequence[int]) -> int:
    told = hashlib.blake2b(array("q", [len(ids), *ids, *labels]).tobytes(), digest_size=8)
    return int.from_bytes(told.digest(), "little")


def _by_ends(told: Judged, ids: Sequence[int], known: Known) -> None:
    """Without roles: what follows the runs of labels."""
    for at, (now, after) in enumerate(pairwise([*told.labelled, False])):
        if not now or after:
            continue
        ended, follows = ids[at] in known.ends, at + 1 < len(ids) and ids[at + 1] in known.ends
        if ended or follows:
            told.answers[0] += 1
            told.answers[1] += ended
        if follows and not ended:
            told.odd("no-end", at + 1)
    if ids and told.labelled[-1] and ids[-1] not in known.ends:
        told.odd("open-end", len(ids) - 1)


# -- by the roles of its tokens ------------------------------------------------------------------------


def _by_role(told: Judged, text: Rendered, known: Known) -> None:
    for role, on in zip(text.roles, told.labelled, strict=True):
        counts = told.roles.setdefault(role, [0, 0])
        counts[0] += 1
        counts[1] += on
    turns: list[list[int]] = [[] for _ in range(text.answers)]
    for at, turn in enumerate(text.turns):
        if turn >= 0:
            turns[turn].append(at)
    trained = [_answer(told, text, turn) for turn in turns if turn]
    told.choice = _choice(told, text, trained)
    if told.kinds.keys() & {"no-target", "begins-early", "stops-late"}:
        return
    wrong = _wrong(told, text, trained, known.train_on)
    if wrong is not None:
        told.odd("wrong-role", wrong)


def _answer(told: Judged, text: Rendered, turn: Sequence[int]) -> bool:
    """Judge one answer; whether anything that it says is trained."""
    on, roles = told.labelled, text.roles
    said = [at for at in turn if roles[at] is Role.ASSISTANT]
    end = next((at for at in turn if roles[at] is Role.END), None)
    if not said:
        told.odd("empty-answer", turn[0])
        return False
    trained = [at for at in said if on[at]]
    if not trained:
        return False
    first, last = said.index(trained[0]), len(said) - 1 - said.index(trained[-1])
    if 0 < first <= NEAR and not any(on[max(0, said[0] - NEAR) : said[0]]):
        told.odd("begins-late", said[0])
    if 0 < last <= NEAR:
        told.odd("stops-early", said[-1])
    _opening(told, text, said[0])
    if end is None:
        if turn[-1] == len(text.ids) - 1:
            told.odd("open-end", turn[-1])
        return True
    told.answers[0] += 1
    told.answers[1] += on[end]
    if not on[end]:
        told.odd("no-end", end)
    else:
        _behind(told, text, end + 1)
    return True


def _opening(told: Judged, text: Rendered, start: int) -> None:
    """Labels that begin inside the header of an answer, and not in the text before it."""
    at = start - 1
    while at > 0 and text.roles[at] in (Role.HEADER, Role.BETWEEN) and told.labelled[at]:
        at -= 1
    if at < start - 1 and not told.labelled[at] and text.roles[start - 1] is Role.HEADER:
        told.odd("begins-early", at + 1)


def _behind(told: Judged, text: Rendered, at: int) -> None:
    """Labels that go on behind the end of an answer, and not into the text of the next turn."""
    while at < len(text.ids) and text.roles[at] is Role.BETWEEN:
        at += 1
    begin = at
    while at < len(text.ids) and text.roles[at] is Role.HEADER and told.labelled[at]:
        at += 1
    if at > begin and (at == len(text.ids) or not told.labelled[at]):
        told.odd("stops-late", begin)


def _choice(told: Judged, text: Rendered, trained: Sequence[bool]) -> str:
    """What the labels of a sample choose to train; empty for a mixture."""
    prompt, on = [sum(told.roles.get(role, [0, 0])[n] for role in PROMPT) for n in (0, 1)]
    said = told.roles.get(Role.ASSISTANT, [0, 0])
    if not told.targets:
        return "nothing"
    if on == 0:
        if all(trained):
            return "answers"
        return "last" if trained and trained[-1] and not any(trained[:-1]) else ""
    if said[0] != said[1]:
        return ""
    if on >= prompt - 1:
        return "all"
    first = next(at for at, turn in enumerate(text.turns) if turn >= 0)
    before = any(told.labelled[at] for at in range(first) if text.roles[at] in PROMPT)
    after = all(told.labelled[at] for at in range(first, len(text.ids)) if text.roles[at] in PROMPT)
    return "no prompt" if after and not before else ""


def _wrong(told: Judged, text: Rendered, trained: Sequence[bool], train_on: str | None) -> int | None:
    """Where the labels train what was not declared, or part of a prompt; None if nowhere."""
    allowed = {
        None: ("answers", "last", "all", "no prompt"),
        "assistant": ("answers",),
        "last": ("last",),
        "all": ("all",),
    }
    single = len(trained) == 1 and told.choice == "answers" and train_on == "last"
    if told.choice in allowed[train_on] or single:
        return None
    roles = enumerate(zip(text.roles, told.labelled, strict=True))
    if train_on == "all":
        return next((at for at, (role, on) in roles if at and role in (*PROMPT, Role.ASSISTANT) and not on), None)
    extra = next((at for at, (role, on) in roles if role in PROMPT and on), None)
    if extra is not None:
        return extra
    if train_on == "last":
        last = max(text.turns)
        return next((at for at, turn in enumerate(text.turns) if 0 <= turn < last and told.labelled[at]), None)
    left_out = [number for number, yes in enumerate(trained) if not yes]
    return text.turns.index(left_out[0]) if left_out and left_out[0] in text.turns else None
