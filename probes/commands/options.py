"""Options that several commands share, and what they build."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..ranks.exchange import DEFAULT_TIMEOUT
from ..records.choice import Choice, code_of
from ..report.outputs import FORMS
from .values import dashed, dropout, positive, seconds, seed

if TYPE_CHECKING:
    from alignment.findings import Finding

__all__ = [
    "add_baseline",
    "add_device",
    "add_labels",
    "add_lora_options",
    "add_loss_options",
    "add_model_options",
    "add_outputs",
    "add_rank_options",
    "add_report_options",
    "add_roles",
    "add_streams",
    "add_trainer_options",
    "codes",
    "finding_filter",
    "ignored_flags",
    "spelled",
    "strict_findings",
]

#: Flags of a training command line that mean nothing here (``--grad_accum`` declares no reduction).
TRAINER_FLAGS = ("--lr", "--epochs", "--grad_accum", "--output_dir")
DTYPES = ("float32", "bfloat16", "float16")


def add_weights(parser: Any) -> None:
    """--weights."""
    parser.add_argument(
        "--weights",
        choices=("none",),
        help="read none of --model's: a small random model is made of its configuration, and needs no more than that",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --data, --batch-size, --length, --labels, --device, --dtype, --seed, and those of LoRA."""
    group = parser.add_argument_group("model and batch")
    group.add_argument(
        "--model",
        "--base_ckpt",
        metavar="NAME_OR_PATH",
        help="a checkpoint (safetensors), or FILE.py:FUNC that returns a module; default: a small random Higgs model",
    )
    add_weights(group)
    group.add_argument("--batch", metavar="FILE.py:FUNC", help="FUNC(model) returns the batch; default: a barcoded one")
    group.add_argument(
        "--data",
        "--train_manifest",
        metavar="FILE",
        help="conversations for the real data path, JSON lines or one JSON array; default: a barcoded batch",
    )
    add_roles(group, "of --data for a text model; default: what lies beside --model")
    group.add_argument(
        "--allow-outside",
        action="store_true",
        help="let --data name codes of audio (.npy) outside its own folder",
    )
    group.add_argument(
        "--batch-size", "--batch_size", type=positive, metavar="N", help="samples in the batch (default 2)"
    )
    group.add_argument(
        "--length",
        type=positive,
        metavar="T",
        help="expanded length of the barcoded batch (256; a lone sample is padded by 8 more)",
    )
    add_labels(group)
    add_device(group)
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights and batch (default 0)")
    add_lora_options(parser)


def add_labels(group: Any) -> None:
    """--labels."""
    group.add_argument(
        "--labels",
        type=dashed,
        choices=("position-aligned", "pre-shifted", "none"),
        default="position-aligned",
        help="how the batch hands its text labels to the model (default: position-aligned)",
    )


def add_device(group: Any) -> None:
    """--device and --dtype."""
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="default: cuda where there is one")
    told = "of the model; default: float32 (with --weights none too), or the checkpoint's own"
    group.add_argument("--dtype", choices=DTYPES, help=told)


def add_lora_options(parser: argparse.ArgumentParser) -> None:
    """--lora-r, --lora-alpha, --lora-dropout, --lora-target."""
    group = parser.add_argument_group("LoRA", "any of these wraps the model in PEFT's LoRA before everything else")
    group.add_argument("--lora-r", "--lora_r", type=positive, metavar="N", help="rank (default 16)")
    group.add_argument("--lora-alpha", "--lora_alpha", type=positive, metavar="N", help="scale times rank (default 32)")
    group.add_argument(
        "--lora-dropout", "--lora_dropout", type=dropout, metavar="P", help="of the adapters (default 0)"
    )
    group.add_argument(
        "--lora-target",
        "--lora_target",
        metavar="NAME,...",
        help="layers to adapt, or all-linear; default: the attention projections and the audio feed-forward layers",
    )


def add_rank_options(parser: argparse.ArgumentParser) -> None:
    """--rank-timeout."""
    group = parser.add_argument_group("several ranks", "under torchrun every rank checks its own shard; rank 0 reports")
    group.add_argument(
        "--rank-timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help=f"how long ranks wait for each other (default {DEFAULT_TIMEOUT:g})",
    )


def add_trainer_options(parser: argparse.ArgumentParser) -> None:
    """The flags of a training command that change no alignment, so that the command can be checked as it stands."""
    group = parser.add_argument_group(
        "a trainer's own flags", "accepted and ignored; accumulation is checked with --grad-accum and --reduction"
    )
    for flag in TRAINER_FLAGS:
        group.add_argument(flag, dest=_dest(flag), metavar="VALUE", help=argparse.SUPPRESS)


def ignored_flags(args: argparse.Namespace) -> list[str]:
    """What the report says of a trainer's flags that were given."""
    given = [f"{flag} {value}" for flag in TRAINER_FLAGS if (value := getattr(args, _dest(flag))) is not None]
    return [f"ignored, as they change no alignment: {', '.join(given)}"] if given else []


def _dest(flag: str) -> str:
    return f"trainer_{flag[2:]}"  # --grad-accum is ours


#: What ``--replay`` means to the checks.
REPLAYS: Mapping[str, Any] = {"full": "full", "none": False}


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    """--loss, --policy, --head, --reduction, --grad-accum."""
    group = parser.add_argument_group("loss")
    group.add_argument(
        "--loss",
        metavar="FILE.py:FUNC",
        help="or package.module:FUNC; FUNC(model, batch) -> scalar tensor; default: the engine's own dual loss",
    )
    group.add_argument(
        "--policy",
        choices=("evidence", "direct", "shifted"),
        default="evidence",
        help="how the engine's own loss pairs logits with labels (default: by evidence)",
    )
    group.add_argument("--head", action="append", default=[], metavar="NAME", help="an output head, by module name")
    add_streams(group)
    add_reduction(group, "what the weights are held to (LA302)")
    group.add_argument("--grad-accum", type=positive, default=1, metavar="N", help="micro-batches of one step (LA302)")


def add_reduction(parser: Any, told: str) -> None:
    """--reduction: what the weights keep to, which is declared."""
    parser.add_argument("--reduction", choices=("token-mean", "sequence-mean", "sum"), help=told)


def add_replay(parser: argparse.ArgumentParser) -> None:
    """--replay: how much of the loss is run again with other inputs."""
    parser.add_argument(
        "--replay",
        choices=tuple(REPLAYS),
        help="run the loss again with later inputs replaced at every position, or not at all (default: at a few cuts)",
    )


def add_roles(group: Any, tokenizer: str) -> None:
    """--tokenizer, of which ``tokenizer`` says what it is for, and --train-on."""
    group.add_argument("--tokenizer", metavar="PATH", help=tokenizer)
    group.add_argument(
        "--train-on",
        choices=("assistant", "last", "all"),
        help="whose text is to be trained (LA208): every answer, the last one, or all",
    )


def add_streams(group: Any) -> None:
    """--streams."""
    group.add_argument("--streams", metavar="FILE.toml", help="what the heads of a model of your own predict, declared")


def add_outputs(group: Any, *forms: str) -> None:
    """An option for every form of the report that a command can write."""
    for form in forms:
        group.add_argument(f"--{form}", metavar="FILE|-", help=FORMS[form])


def add_report_options(parser: argparse.ArgumentParser, *forms: str) -> None:
    """--json, --junit, --markdown and other ``forms``; --select, --ignore, --strict, -v."""
    group = parser.add_argument_group("report")
    add_outputs(group, "json", "junit", "markdown", *forms)
    group.add_argument("--select", metavar="CODE,...", help="only these findings count, and every blind spot")
    group.add_argument(
        "--ignore",
        metavar="CODE[:NAME],...",
        help="these findings do not count; a blind spot is accepted by name, as in LA801:codec_head or LA802:text",
    )
    group.add_argument(
        "--strict",
        nargs="?",
        const="all",
        metavar="CODE,...",
        help="warnings become errors (all, or these codes)",
    )
    group.add_argument("-v", "--verbose", action="store_true", help="more detail; tracebacks of errors")


def add_baseline(group: Any) -> None:
    """--baseline."""
    group.add_argument("--baseline", metavar="FILE", help="a record; what is worse than it is a finding (LA701)")


def spelled(args: argparse.Namespace, *groups: Callable[[argparse.ArgumentParser], None]) -> str:
    """The options of these groups that differ from their defaults, as on a command line; each after a blank."""
    parser = argparse.ArgumentParser(add_help=False)
    for group in groups:
        group(parser)
    words = []
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(args, name)
        if value != default:
            option = f"--{name.replace('_', '-')}"
            values = value if isinstance(value, list) else [value]
            words += [option] if value is True else [word for one in values for word in (option, str(one))]
    return "".join(f" {shlex.quote(word)}" for word in words)


def codes(text: str | None, option: str) -> frozenset[str]:
    """The finding codes of a comma-separated list, by code or name.

    Raises:
        UsageError: an unknown code; the message names the nearest.
    """
    return frozenset(code_of(word, option) for word in _words(text))


def finding_filter(args: argparse.Namespace) -> Choice:
    """Which findings count, from --select and --ignore."""
    select = codes(args.select, "--select")
    choice = Choice.of(_words(args.ignore), select, "--ignore")
    if args.select is not None and not select:
        raise UsageError("--select names no code; loss-align rules lists all")
    if select and not select - choice.ignore:
        raise UsageError("--select and --ignore leave no code; loss-align rules lists all")
    return replace(choice, origin=args.defaults)


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word.strip()]


def strict_findings(findings: Sequence[Finding], strict: str | None) -> list[Finding]:
    """Findings with their warnings raised to errors where ``--strict`` says so."""
    wanted = frozenset() if strict in (None, "all") else codes(strict, "--strict")
    return [
        replace(f, severity="error")
        if f.severity == "warning" and (strict == "all" or (strict is not None and f.code in wanted))
        else f
        for f in findings
    ]
