"""Rows of the before-and-after table: bugs of released packages, and the two neighbouring releases of each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROWS", "Turn"]

#: Of torchtune alone; this torch and PEFT take no release of it that torchtune does.
TORCHAO = ("torchao",)


@dataclass(frozen=True)
class Turn:
    """One bug.

    Attributes:
        package: whose it is.
        bug: what was wrong, in a few words.
        before: the last release that has it.
        after: the first release without it; nothing was released between the two.
        code: what the release before must show.
        script: of fixtures/gallery, with its words.
        links: issues and pull requests of the package, by their numbers.
        beside: releases of other packages that both run with, where those of this environment do not go with them.
        without: packages that a process is told are not there.
    """

    package: str
    bug: str
    before: str
    after: str
    code: str
    script: str
    links: tuple[int, ...]
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = TORCHAO


def _transformers(bug, before, after, code, script, *links, **more):
    return Turn("transformers", bug, before, after, code, script, links, **more)


#: datasets of today wants a newer hub than these releases; nothing here needs it.
OLD = {"beside": ("peft==0.13.2", "accelerate==1.0.1"), "without": (*TORCHAO, "datasets")}

ROWS = (
    _transformers("Moonshine shifts twice", "5.12.1", "5.13.0", "LA103", "double_shift.py moonshine", 46784),
    _transformers("Florence-2 shifts twice", "5.12.1", "5.13.0", "LA103", "double_shift.py florence2", 46897, 46898),
    _transformers(
        "VisionEncoderDecoder shifts twice",
        "4.57.6",
        "5.0.0",
        "LA103",
        "double_shift.py vision_encoder_decoder",
        40111,
        40863,
    ),
    _transformers("Moshi shifts twice", "5.16.1", "5.17.0", "LA103", "double_shift.py moshi", 36928, 47388),
    _transformers("XGLM trains padding", "4.49.0", "4.50.0", "LA202", "xglm_padding.py", 35878),
    _transformers(
        "Gemma 3 drops shift_labels", "5.16.1", "5.17.0", "LA201", "dropped_shift_labels.py gemma3", 48491, 48493
    ),
    _transformers("RoFormer reads what follows", "5.17.0", "5.18.0", "LA401", "leak.py roformer", 48745, 48785),
    _transformers("BigBird reads what follows", "5.17.0", "5.18.0", "LA401", "leak.py bigbird", 48745, 48785),
    _transformers("RemBERT reads what follows", "5.17.0", "5.18.0", "LA401", "leak.py rembert", 48745, 48785),
    _transformers("MegatronBERT reads what follows", "5.17.0", "5.18.0", "LA401", "leak.py megatronbert", 48745, 48785),
    _transformers("packed documents see each other", "4.53.0", "4.53.1", "LA401", "leak.py packed", 39194),
    _transformers("Trainer: a mean of means", "4.45.2", "4.46.1", "LA302", "accumulated.py", 34191, **OLD),
    _transformers(
        "Trainer: smoothed labels, accumulated", "5.14.1", "5.15.0", "LA302", "accumulated.py smoothed", 46731, 47261
    ),
    Turn(
        "trl",
        "SFT: answers alone, not when packed",
        "0.19.1",
        "0.20.0",
        "LA208",
        "packed_answers.py",
        (3728,),
        ("transformers==4.57.6", "datasets==4.4.1"),
    ),
    Turn(
        "peft",
        "a frozen adapter freezes its neighbour",
        "0.20.0",
        "0.21.0",
        "LA602",
        "frozen_adapter.py",
        (3487, 3495),
    ),
    Turn(
        "peft",
        "a tied head is left behind",
        "0.17.1",
        "0.18.0",
        "LA602",
        "tied_head.py",
        (1750, 2777, 2803),
        ("transformers==4.57.6",),
        (*TORCHAO, "datasets"),
    ),
    Turn(
        "torchtune",
        "a mean of means",
        "0.3.1",
        "0.4.0",
        "LA302",
        "recipe_accumulated.py",
        (1875, 1878, 1917),
        ("torchao==0.6.1",),
        (),
    ),
)
