"""The decision: are logits paired with labels as they stand, or with the labels one further on?

Equal lengths say nothing about *where* each label sits. The engine decides from evidence: it
compares the labels with the input ids, and refuses where they contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, NoReturn, get_args

import torch
from torch import Tensor

from .arguments import check_is, check_tensor
from .errors import AlignmentError, InputError
from .labels import Convention, Evidence, check_labels, infer_convention
from .streams import IGNORE_INDEX, Stream

__all__ = ["Decision", "Pairing", "Path", "Policy", "choose", "choose_by", "pair"]

Policy = Literal["evidence", "direct", "shifted"]
Path = Literal["expanded", "fallback", "none"]


class Pairing(str, Enum):
    """DIRECT: logits[t] with labels[t]. SHIFTED: logits[t] with labels[t + 1]."""

    DIRECT = "direct"
    SHIFTED = "shifted"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise InputError(f"unknown pairing {value!r}: choose one of {', '.join(cls)}")


@dataclass(frozen=True)
class Decision:
    """How one stream's logits and labels are to be paired, and why.

    Attributes:
        pairing: None if there is no labelled position: nothing to pair.
        path: ``expanded`` (the model's own labels), ``fallback`` (the raw labels), ``none``.
        convention: what the ids say about the labels.
        verified: whether the ids prove the pairing right.
        labels: (B, T) int64, the labels to be paired, as long as the logits.
        evidence: the counts behind ``convention``; None where no ids were given.
        warnings: what the caller should know.
    """

    pairing: Pairing | None
    path: Path
    convention: Convention
    verified: bool
    labels: Tensor
    evidence: Evidence | None = None
    warnings: tuple[str, ...] = ()

    @property
    def contradicted(self) -> bool:
        """Whether a named policy chose what the ids speak against."""
        if self.convention is Convention.INCONSISTENT:
            return True
        right = _RIGHT.get(self.convention)
        return right is not None and self.pairing is not None and self.pairing is not right

    @property
    def reason(self) -> str:
        """The evidence in one line, and what the other pairing would train."""
        if self.evidence is None:
            return "; ".join(self.warnings)
        right = _RIGHT.get(self.convention)
        other = f": pairing {_OTHER[right]} would train each logit to {_TRAINS[_OTHER[right]]}" if right else ""
        return f"{self.evidence}{other}"

    def as_dict(self) -> dict[str, object]:
        """The decision in the report's JSON schema."""
        return {
            "pairing": None if self.pairing is None else str(self.pairing),
            "path": self.path,
            "convention": str(self.convention),
            "verified": self.verified,
            "warnings": list(self.warnings),
        }


_RIGHT = {Convention.POSITION_ALIGNED: Pairing.SHIFTED, Convention.PRE_SHIFTED: Pairing.DIRECT}
_OTHER = {Pairing.SHIFTED: Pairing.DIRECT, Pairing.DIRECT: Pairing.SHIFTED}
#: What a pairing trains where the other one is right.
_TRAINS = {
    Pairing.DIRECT: "repeat the token it has just read",
    Pairing.SHIFTED: "skip a token (double shift)",
}
_BOTH_FIT = (
    "the ids fit both conventions (too few or repeated tokens): pairing taken on trust; "
    "check a longer or a barcoded batch"
)
_NONE_COUNTED = (
    "only the last tokens of segments are labelled, with tokens that are not in the ids: paired by "
    "exclusion; check a longer or a barcoded batch"
)


def choose(
    logits: Tensor | int,
    labels: Tensor | None,
    ids: Tensor | None = None,
    *,
    stream: Stream | None = None,
    fallback: Tensor | Callable[[], Tensor] | None = None,
    policy: Policy = "evidence",
    name: str = "text",
) -> Decision:
    """Decide how logits and labels of one stream are paired.

    Args:
        logits: (B, T, V) logits, or T itself.
        labels: (B, T) int64 labels that came with the logits (``expanded_labels``), or None.
        ids: (B, T) int64 input ids at the same positions (``expanded_input_ids``), or None.
        stream: the input side with its padding and segment borders, instead of ``ids``.
        fallback: (B, T) raw labels to use where ``labels`` is None, or a function that expands them.
        policy: ``evidence``, or a named pairing, which is obeyed and contradicted where ids speak against it.
        name: the stream's name, for messages.

    Returns:
        The decision, with the labels it is about.

    Raises:
        AlignmentError: ``LA101`` lengths differ; ``LA103``-``LA105`` the labels fit neither convention,
            and no policy is named.
        InputError: an unknown policy, wrong shapes or dtypes, or no labels at all.
    """
    if policy not in get_args(Policy):
        raise InputError(f"unknown policy {policy!r}: choose one of {', '.join(get_args(Policy))}")
    length = logits if isinstance(logits, int) else _length(logits)
    path: Path = "expanded"
    if labels is None:
        if fallback is None:
            raise InputError(f"no labels for {name}: pass expanded_labels, or the raw labels as fallback")
        labels = fallback() if callable(fallback) else fallback
        path = "fallback"
    labels = _check_shapes(logits, labels, name)
    if not bool((labels != IGNORE_INDEX).any()):
        nothing = ("no labelled position: nothing to pair",)
        return Decision(None, "none", Convention.NONE, verified=False, labels=labels, warnings=nothing)
    view = _plain_stream(ids, name) if stream is None else check_is(stream, Stream, "stream", "text_stream")
    labels = _fit(labels, length, view, name)
    if view is None:
        return _without_ids(labels, path, policy)
    return choose_by(infer_convention(labels.reshape(-1), view), labels, path, policy, name)


def choose_by(
    evidence: Evidence, labels: Tensor, path: Path = "expanded", policy: Policy = "evidence", name: str = "text"
) -> Decision:
    """What ``choose`` decides on labels of which it is known what the ids say.

    Raises:
        AlignmentError: as ``choose``.
    """
    if evidence.convention is Convention.INCONSISTENT:
        return _inconsistent(evidence, labels, path, policy, name)
    return _obey(_by_evidence(evidence, labels, path), policy)


def pair(labels: Tensor, pairing: Pairing | str | None, stream: Stream | None = None) -> Tensor:
    """The target of every logit, as long as the logits themselves: no logit is copied or cut.

    DIRECT leaves the labels as they are. SHIFTED moves each one row up; the last row of a segment,
    and of the batch's rows where no stream is given, pairs with nothing. So
    ``cross_entropy(logits.flatten(0, 1), pair(labels, pairing).flatten())`` is the loss.

    Args:
        labels: (B, T) int64.
        pairing: the decision's pairing; None pairs nothing.
        stream: supplies segment borders; without it each row of ``labels`` is one segment.

    Returns:
        (B, T) int64, ``IGNORE_INDEX`` where a logit pairs with nothing.

    Raises:
        InputError: an unknown pairing, or a stream of another length.
    """
    labels = check_tensor(labels, "labels", "(..., T)", "integers").long()
    if stream is not None:
        check_is(stream, Stream, "stream", "text_stream")
        check_labels(labels, len(stream), stream.name, beside=stream.ids)
    if pairing is None:
        return torch.full_like(labels, IGNORE_INDEX)
    if Pairing(pairing) is Pairing.DIRECT:
        return labels
    out = torch.full_like(labels, IGNORE_INDEX)
    out[..., :-1] = labels[..., 1:]
    if stream is not None:
        out = out.masked_fill(~stream.follows().reshape(labels.shape), IGNORE_INDEX)
    return out


def _length(logits: Tensor) -> int:
    if check_tensor(logits, "logits").dim() < 2:
        raise InputError(f"logits must have shape (B, T, V), got {tuple(logits.shape)}")
    return int(logits.shape[-2])


def _check_shapes(logits: Tensor | int, labels: Tensor, name: str) -> Tensor:
    """The labels as int64, of as many samples as the logits."""
    check_tensor(labels, f"labels of {name}", "(B, T)", "integers")
    if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[0] != labels.shape[0]:
        raise InputError(
            f"logits of {name} hold {logits.shape[0]} samples, labels {labels.shape[0]}: pass the same batch"
        )
    return labels.long()


def _plain_stream(ids: Tensor | None, name: str) -> Stream | None:
    if ids is None:
        return None
    from .streams import text_stream

    return text_stream(ids, vocab=0, name=name)


def _fit(labels: Tensor, length: int, stream: Stream | None, name: str) -> Tensor:
    """Labels as long as the logits; one column shorter is filled if the ids show that it is pre-shifted."""
    have = labels.shape[1]
    if have == length:
        return labels
    if have == length - 1 and stream is not None:
        filled = torch.cat([labels, labels.new_full((labels.shape[0], 1), IGNORE_INDEX)], dim=1)
        if infer_convention(filled.reshape(-1), stream).convention is Convention.PRE_SHIFTED:
            return filled
    raise AlignmentError(
        f"logits and labels of {name} differ in length: {length} vs {have}. {_what_differs(length, have)}",
        code="LA101",
        stream=name,
    )


def _what_differs(length: int, have: int) -> str:
    if have == length + 1:
        return (
            "The logits were cut by one and the labels were not: cut both (logits[:, :-1] with "
            "labels[:, 1:]) or neither, as the labels' convention demands"
        )
    if have == length - 1:
        return "The labels were cut by one and the logits were not: cut both (logits[:, :-1] with labels[:, 1:])"
    return (
        "Labels and logits come from different sequences: audio placeholders were expanded on one side only; "
        "use the model's expanded_labels, or expand the raw labels with alignment.expand"
    )


def _without_ids(labels: Tensor, path: Path, policy: Policy) -> Decision:
    if policy != "evidence":
        pairing, why = Pairing(policy), f"pairing {policy} as declared"
    elif path == "expanded":
        pairing, why = Pairing.DIRECT, "expanded_labels paired directly as the seed document declares"
    else:
        pairing, why = Pairing.SHIFTED, "raw labels shifted as is usual"
    warning = f"{why}, unverified: pass the input ids (expanded_input_ids) to have it proven"
    return Decision(pairing, path, Convention.AMBIGUOUS, verified=False, labels=labels, warnings=(warning,))


def _inconsistent(evidence: Evidence, labels: Tensor, path: Path, policy: Policy, name: str) -> Decision:
    """Labels that fit neither convention: an error, unless the caller named what to do."""
    offset = "" if evidence.offset is None else f" All of them are the token at offset {evidence.offset:+d}."
    rows = "; ".join(str(row) for row in evidence.disagreements)
    message = f"labels of {name} fit neither convention: {evidence}.{offset} First rows that disagree: {rows}"
    if policy == "evidence":
        code = {None: "LA105", 2: "LA103"}.get(evidence.offset, "LA104")
        raise AlignmentError(message, code=code, stream=name)
    warning = f"policy {policy} was asked for, but {message}"
    return Decision(
        Pairing(policy),
        path,
        evidence.convention,
        verified=False,
        labels=labels,
        evidence=evidence,
        warnings=(warning,),
    )


def _by_evidence(evidence: Evidence, labels: Tensor, path: Path) -> Decision:
    pairing = _RIGHT.get(evidence.convention, Pairing.SHIFTED)
    warnings = ()
    if evidence.convention is Convention.AMBIGUOUS:
        warnings = (_BOTH_FIT,)
    elif pairing is Pairing.DIRECT and evidence.after == 0:
        warnings = (_NONE_COUNTED,)
    return Decision(pairing, path, evidence.convention, not warnings, labels, evidence, warnings)


def _obey(decision: Decision, policy: Policy) -> Decision:
    if policy == "evidence" or decision.pairing is None or Pairing(policy) is decision.pairing:
        return decision
    if not decision.verified:
        return replace(decision, pairing=Pairing(policy))
    warning = (
        f"policy {policy} was asked for, but the labels are {decision.convention}: "
        f"each logit is trained to {_TRAINS[Pairing(policy)]}; use --policy evidence or {decision.pairing}"
    )
    return replace(decision, pairing=Pairing(policy), verified=False, warnings=(*decision.warnings, warning))
