"""Drawing of the jury of random losses: choices that do not know of each other, and which of them go together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from random_choices import AFTER, ALIGNED, CRITERIA, EXTRAS, FAULTS, LOGITS, SHIFTED
from random_models import MODELS
from random_programs import MEANS, Program

__all__ = ["drawn", "is_meant"]

#: Faults of the batch's own labels, of which nobody says anything under a key of one's own.
NEEDS_LABELS = ("prompt trained", "sample dropped", "mask of the row", "half trained")
#: Of aligned labels alone, and those that a loop over samples has not.
OF_ALIGNED = ("prompt trained", "mask of the row", "one piece")
OF_BATCHES = ("sample dropped", "one piece", "half trained")
KEYS = {"aligned": ("labels", "labels", "wanted"), "shifted": ("shift_labels", "wanted"), "stream": ("wanted",)}
#: Models that are called as a whole, and how their labels lie.
WHOLE = {"t5": "shifted", "books": "aligned"}
#: Logits that are made twice: a fault of one sample is one of one of them, and they cancel each other out as a pair.
TWICE = ("two forwards", "batch twice")
#: What may score an id with minus infinity.
RULED_OUT = (
    "cross_entropy",
    "sum over count",
    "sum",
    "nll",
    "log-sum-exp",
    "focal",
    "gather",
    "vmap",
    "clamped",
    "hardest",
)
#: How many programs are drawn until one has choices that go together.
TRIES = 100_000
MULTIPLIED = ("product", "transposed product", "checkpointed", "kernel")


def drawn(seed: int, number: int, where: Mapping[str, Sequence[Any]] | None = None) -> Program:
    """Program ``number`` of a seed: right where the number is even, with one fault where it is odd.

    Args:
        seed: of all of them.
        number: of this one.
        where: choices that are drawn from these alone, by their name; a fault of a right program is none all the same.

    Raises:
        ValueError: choices that no program has together.
    """
    pick = random.Random(f"{seed}/{number}")
    for _ in range(TRIES):
        program = _drawn(pick, faulty=bool(number % 2))
        chosen = {name: pick.choice(values) for name, values in (where or {}).items() if name != "fault" or number % 2}
        program = replace(program, **chosen)
        if is_meant(program):
            return program
    raise ValueError(f"no program has these choices together: {where}")


def _drawn(pick: random.Random, *, faulty: bool) -> Program:
    model = pick.choice(MODELS)
    labels = WHOLE.get(model) or pick.choice(("aligned", "aligned", "shifted", "stream"))
    whole = model in WHOLE
    return Program(
        model=model,
        vocab=pick.choice((12, 40, 128, 1024)),
        samples=pick.randint(1, 6),
        length=pick.randint(4, 12),
        ids=pick.choice(("random", "random", "repeated", "frequent", "constant", "alike")),
        kind=pick.choice(("", "", "int32", "not contiguous")),
        mask=pick.choice(("", "prompt", "scattered", "sample")),
        padding="" if whole else pick.choice(("", "", "right", "left")),
        packed=pick.random() < 0.1,
        labels=labels,
        key="labels" if whole else pick.choice(KEYS[labels]),
        logits="whole model" if whole else pick.choice(tuple(LOGITS)),
        after=pick.choice(("", "", *AFTER)),
        pairing=pick.choice(tuple(ALIGNED if labels == "aligned" else SHIFTED)),
        criterion=pick.choice(tuple(CRITERIA)),
        extra=pick.choice(("", "", *EXTRAS)),
        loop=pick.random() < 0.2,
        reduction=pick.choice(("", "", "token-mean", "sum")),
        accumulated=pick.random() < 0.15,
        fault=pick.choice((*FAULTS, "joined", "one too many")) if faulty else "",
        seed=pick.randrange(10**6),
    )


def is_meant(one: Program) -> bool:
    """Whether a program is right where it must be, and wrong in its tokens where it must be."""
    if not _fits(one) or not _reduces(one) or len(one.wanted) < 3 or _has_not(one):
        return False
    same = one.met == one.wanted
    special = {
        "": same,
        "length": True,
        "detached": same and one.extra != "two ahead",
        "mean of means": same and one.accumulated and one.counts[0] != one.counts[1],
        "one too many": same and one.reduction == "token-mean" and one.criterion == "cross_entropy",
        "other book": same and one.model == "books",
        "joined": not same and one.packed and one.ids == "random",
    }
    return special[one.fault] if one.fault in special else bool(one.met) and not same and one.visible


def _fits(one: Program) -> bool:
    """Whether the choices of a program that depend on each other agree."""
    whole, aligned = one.model in WHOLE, one.labels == "aligned"
    return not any(
        (
            one.pairing not in (ALIGNED if aligned else SHIFTED),
            one.key not in (("labels",) if whole else KEYS[one.labels]),
            whole
            and (one.labels != WHOLE[one.model] or one.logits != "whole model" or bool(one.padding) or one.packed),
            one.model == "biased" and one.logits in MULTIPLIED,  # its bias would be left out
            one.packed and (one.model not in ("llama", "tied") or bool(one.padding) or one.labels == "stream"),
            bool(one.padding) and one.labels == "stream",
            one.logits == "kernel" and (one.criterion, one.after, one.extra) != ("cross_entropy", "", ""),
            one.logits == "kernel" and (one.accumulated or one.fault == "detached"),  # its head alone learns, as it may
            one.extra == "two ahead" and (one.logits != "body and head" or not aligned or one.loop or one.packed),
            one.after == "id ruled out"
            and (one.criterion not in RULED_OUT or one.extra not in ("", "weights", "scaled")),
            one.criterion == "hardest" and (one.ids == "constant" or "entropy" in one.extra),  # which, nothing shows
            one.logits in TWICE and (one.fault in ("sample dropped", "one piece") or one.criterion == "preference"),
            one.logits == "batch twice" and one.model == "plain" and (one.loop or one.ids in ("alike", "constant")),
            one.logits in TWICE and one.loop and one.ids in ("alike", "constant"),  # of which sample, nothing shows
            one.accumulated and (one.model == "books" or one.criterion != "cross_entropy" or one.key == "wanted"),
        )
    )


def _reduces(one: Program) -> bool:
    """Whether the reduction that is declared is the one that the loss has."""
    if one.reduction and one.samples < 2:
        return False
    if one.accumulated:
        return one.reduction == "token-mean" and not one.loop and not one.extra and min(one.counts) > 0
    means = {"token-mean": MEANS, "sum": ("sum",)}.get(one.reduction)
    if means is None:
        return True
    plain = not one.loop and one.extra in ("", "nothing") and one.key != "wanted" and one.after != "temperature"
    return plain and one.criterion in means and one.model != "books"


def _has_not(one: Program) -> bool:
    """Whether a program cannot have its fault."""
    fault = one.fault
    return any(
        (
            one.key == "wanted" and fault in (*NEEDS_LABELS, "joined"),  # nobody says what must be trained
            one.labels != "aligned" and fault in OF_ALIGNED,
            one.loop and fault in OF_BATCHES,
            not all(one.parts),  # a mean over nothing
            fault == "length" and (one.logits == "kernel" or one.extra == "two ahead"),
            fault == "length" and one.criterion in ("sum", "token weights") and one.pairing == "labelled",
        )
    )
