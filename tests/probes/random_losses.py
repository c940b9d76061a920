"""The jury of random losses: programs drawn from choices that do not know of each other, one fault in half of them.

``python tests/probes/random_losses.py --programs 50000`` draws them from a fresh seed (``--seed`` repeats one), runs
``check_loss`` on each, and counts what it said against what is true. What is true is never asked of the product: the
lines of a program that pair logits with labels run a second time on numbers of rows and of tokens, and say which row
meets which token. Every program is a short script (``--show N``); ``--failures FILE`` writes those that were judged
wrongly, each with the fewest choices that still are.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from random_models import ENDS, model_of
from torch import Tensor

from alignment import AlignmentError, InputError
from probes import check_loss
from probes.errors import UsageError

IGNORED = -100
#: What a target is numbered that is no input: the token after a window.
OUTSIDE = 10**6

# -- the choices: lines of code by name ---------------------------------------------------------------

#: How hidden rows become logits. ``h`` are the body's rows, ``z`` logits.
LOGITS = {
    "whole model": "z = whole(model, x)",
    "body and head": "z = head(body(model, x))",
    "chunks": "z = torch.cat([head(part) for part in body(model, x).split(3, 1)], 1)",
    "fused": "z = F.linear(body(model, x), head.weight)",
    "checkpointed": "z = checkpoint(F.linear, body(model, x), head.weight, use_reentrant=False)",
    "rows first": "z = body(model, x)",
}
#: What is done to logits before they are paired.
AFTER = {
    "": "",
    "bfloat16": "z = z.bfloat16().float()",
    "float16": "z = z.half().float()",
    "double": "z = z.double()",
    "softcap": "z = 30 * torch.tanh(z / 30)",
    "temperature": "z = z / 0.7",
    "transposed": "z = z.transpose(1, 2).contiguous().transpose(1, 2)",
}
#: How rows meet labels that name the token at their place, shifted by ``{d}`` (1 is right).
ALIGNED = {
    "slices": "z, y = z[:, : z.shape[1] - {d}], y[:, {d}:]",
    "roll": "y = y.roll(-{d}, 1); y[:, y.shape[1] - {d} :] = -100",
    "pad": "y = F.pad(y, (0, {d}), value=-100)[:, {d}:]",
    "loop": "n = z.shape[1] - {d}; z, y = torch.stack([z[:, t] for t in range(n)], 1), "
    "torch.stack([y[:, t + {d}] for t in range(n)], 1)",
    "index_select": "n = torch.arange(z.shape[1] - {d}); z, y = z.index_select(1, n), y.index_select(1, n + {d})",
    "flatten": "y = y.clone(); y[:, :{d}] = -100; "
    "z, y = z.flatten(0, 1)[: z.shape[0] * z.shape[1] - {d}], y.flatten()[{d}:]",
    "labelled": "z, y = z[:, : z.shape[1] - {d}], y[:, {d}:]; k = y != -100; z, y = z[k], y[k]",
    "ends first": "z = z.flip(1)[:, {d}:].flip(1); y = y.flip(1)[:, : y.shape[1] - {d}].flip(1)",
}
#: The same for labels that name the token after their place.
SHIFTED = {
    "direct": "",
    "flattened": "z, y = z.flatten(0, 1), y.flatten()",
    "labelled": "k = y != -100; z, y = z[k], y[k]",
    "backwards": "z, y = z.flip(1), y.flip(1)",
}
#: Losses of (N, V) logits and (N,) labels.
CRITERIA = {
    "cross_entropy": "loss = F.cross_entropy(z, y)",
    "sum over count": "loss = F.cross_entropy(z, y, reduction='sum') / (y != -100).sum().clamp(min=1)",
    "sum": "loss = F.cross_entropy(z, y, reduction='sum')",
    "nll": "loss = F.nll_loss(F.log_softmax(z, -1), y)",
    "log-sum-exp": "k = y != -100; loss = (z[k].logsumexp(-1) - z[k].gather(-1, y[k, None])[:, 0]).mean()",
    "one-hot": "k = y != -100; loss = -(F.one_hot(y[k], z.shape[-1]) * z[k].log_softmax(-1)).sum(-1).mean()",
    "categorical": "k = y != -100; loss = -torch.distributions.Categorical(logits=z[k]).log_prob(y[k]).mean()",
    "smoothing": "loss = F.cross_entropy(z, y, label_smoothing=0.1)",
    "focal": "l = F.cross_entropy(z, y, reduction='none'); "
    "loss = (l * (1 - (-l).exp()) ** 2).sum() / (y != -100).sum()",
    "poly": "l = F.cross_entropy(z, y, reduction='none'); "
    "loss = ((l + 1 - (-l).exp()) * (y != -100)).sum() / (y != -100).sum()",
    "token weights": "l = F.cross_entropy(z, y, reduction='none'); loss = (l * (1 + torch.arange(len(l)) % 3)).mean()",
    "class weights": "loss = F.cross_entropy(z, y, weight=1 + (torch.arange(z.shape[-1]) % 2).to(z))",
    "custom function": "loss = Own.apply(z, y)",
    "bce": "k = y != -100; loss = F.binary_cross_entropy_with_logits(z[k], F.one_hot(y[k], z.shape[-1]).to(z))",
    "gather": "k = y != -100; loss = -z[k].softmax(-1).gather(-1, y[k, None]).log().mean()",
}
#: What is added to a loss.
EXTRAS = {
    "": "",
    "z-loss": "loss = loss + 1e-4 * z.logsumexp(-1).pow(2).mean()",
    "entropy": "loss = loss + 1e-3 * (z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()",
    "l2": "loss = loss + 1e-5 * z.pow(2).mean()",
    "scaled": "loss = loss * 64",
    "nothing": "loss = loss + 0 * z.sum()",
}
#: Faults of how rows meet labels: lines before the pairing, or another shift.
FAULTS = {
    "copy": 0,
    "double shift": 2,
    "three ahead": 3,
    "prompt trained": "y = torch.where(real, x, y)",
    "sample dropped": "z, y, x = z[1:], y[1:], x[1:]",
    "mask of the row": "y = torch.where(y.roll(-1, 1) == -100, torch.full_like(y, -100), x)",
    "one piece": "",
    "detached": "",
    "length": "",
    "half trained": "y = y.clone(); y[:, 1::2] = -100",
}
PRELUDE = """import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from random_losses import Own, body, whole
"""


class Own(torch.autograd.Function):
    """A cross-entropy whose backward is its own, as fused kernels have it."""

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor) -> Tensor:
        kept = labels != IGNORED
        context.save_for_backward(logits, labels)
        chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
        return -(chosen * kept).sum() / kept.sum().clamp(min=1)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels = context.saved_tensors
        kept = labels != IGNORED
        rest = logits.softmax(-1)
        rest[torch.arange(len(labels)), labels.clamp(min=0)] -= 1
        return grad * rest * kept[:, None] / kept.sum().clamp(min=1), None


def body(model: Any, ids: Tensor) -> Tensor:
    """(B, T, H): what the head of a model of ours reads."""
    return model.body(input_ids=ids)[0]


def whole(model: Any, ids: Tensor) -> Tensor:
    """(B, T, V): the logits of a model of ours."""
    out = model(input_ids=ids)
    return out if isinstance(out, Tensor) else out.logits


# -- a program ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """One loss, its batch and its model, by the names of the choices; ``fault`` is empty in a right one."""

    model: str = "llama"
    vocab: int = 128
    samples: int = 2
    length: int = 8
    ids: str = "random"
    mask: str = ""
    padding: str = ""
    labels: str = "aligned"
    key: str = "labels"
    logits: str = "whole model"
    after: str = ""
    pairing: str = "slices"
    criterion: str = "cross_entropy"
    extra: str = ""
    loop: bool = False
    fault: str = ""
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What the check is told beside the batch."""
        named = {"heads": ["head"]} if self.model == "plain" else {}
        return {**named, "labels": "position_aligned" if self.labels == "aligned" else "pre_shifted"}

    def batch(self) -> dict[str, Tensor]:
        """The batch that the check is given."""
        ids, labels, mask = self._tokens()
        out = {"input_ids": ids, self.key: labels}
        return {**out, "attention_mask": mask} if self.padding else out

    def _tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, self.length + 1)
        high = self.vocab - 1
        if self.ids == "repeated":
            high = min(high, 8)
        ids = torch.randint(ENDS, high, shape, generator=generator)
        if self.ids == "constant":
            ids = torch.full(shape, 5)
        if self.ids == "frequent":
            ids = (ids.double() / high).pow(6).mul(high - ENDS).long() + ENDS
        if self.labels == "stream":  # windows that follow each other
            line = ids.reshape(-1)[: self.samples * self.length + 1]
            first, after = (part.reshape(self.samples, -1) for part in (line[:-1], line[1:]))
        else:
            first, after = ids[:, :-1], ids[:, 1:]
        mask = torch.ones_like(first)
        for sample in range(self.samples):
            cut = sample % max(self.length - 3, 1)
            if self.padding == "right" and cut:
                mask[sample, -cut:] = 0
            if self.padding == "left" and cut:
                mask[sample, :cut] = 0
        first = torch.where(mask == 1, first, 0)
        labels = (first if self.labels == "aligned" else after).clone()
        if self.labels == "shifted" and self.key != "wanted":
            labels[:, -1] = IGNORED
        labels[self._hidden(mask)] = IGNORED
        return first.contiguous(), labels, mask

    def _hidden(self, mask: Tensor) -> Tensor:
        """(B, T) bool: labels that are masked: of the prompt, at random, of one sample, at padding and beside it."""
        out = mask == 0
        if self.padding:  # the first real token is no target of the padding before it
            beside = (
                F.pad(mask, (1, 0), value=1)[:, :-1]
                if self.labels == "aligned"
                else F.pad(mask, (0, 1), value=1)[:, 1:]
            )
            out = out | (beside == 0)
        if self.mask == "prompt":
            out[:, : self.length // 2] = True
        if self.mask == "scattered":
            out |= torch.rand(out.shape, generator=torch.Generator().manual_seed(self.seed + 1)) < 0.3
        if self.mask == "sample" and self.samples > 1:
            out[-1] = True
        return out

    # -- its code

    def pairing_lines(self) -> list[str]:
        """Lines that pair rows ``z`` (B, T, ..), labels ``y`` of ids ``x``, both (B, T), ``real`` but for padding."""
        plan = FAULTS.get(self.fault, 1)
        shift = plan if isinstance(plan, int) else 1
        lines = [plan] if isinstance(plan, str) and plan else []
        if self.labels == "aligned":
            if self.fault == "one piece":
                return [*lines, "z, y = z.flatten(0, 1)[:-1], y.flatten()[1:]"]
            lines.append(ALIGNED[self.pairing].format(d=shift))
        else:
            if self.fault in ("double shift", "three ahead"):
                lines.append(ALIGNED["slices"].format(d=shift - 1))
            lines.append(SHIFTED[self.pairing])
        if self.fault == "length":
            lines.append("z = z[:, :-1]" if self.pairing not in ("flatten", "labelled", "flattened") else "z = z[:-1]")
        return [line for line in lines if line]

    def source(self) -> str:
        """The functions ``pair`` and ``loss`` as text."""
        rows = self.logits == "rows first"
        after = "    " + AFTER[self.after] if AFTER[self.after] else ""
        lines = ["def pair(z, y, x, real):", *("    " + line for line in self.pairing_lines()), "    return z, y", ""]
        lines += ["def one(model, x, y, real):", *(["    head = model.head"] if self.logits != "whole model" else [])]
        lines += ["    " + LOGITS[self.logits], "" if rows else after, "    z, y = pair(z, y, x, real)"]
        lines += ["    z = head(z)", after] if rows else []
        lines += ["    z = z.detach()"] if self.fault == "detached" else []
        lines += ["    z, y = z.reshape(-1, z.shape[-1]), y.reshape(-1)", "    " + CRITERIA[self.criterion]]
        lines += ["    " + EXTRAS[self.extra], "    return loss", "", "def loss(model, batch):"]
        lines += [f"    x, y = batch['input_ids'], batch['{self.key}'].clone()"]
        lines += ["    real = batch.get('attention_mask', torch.ones_like(x)) == 1"]
        if self.loop:
            lines += ["    parts = [slice(i, i + 1) for i in range(len(x))]"]
            lines += ["    return sum(one(model, x[i], y[i], real[i]) for i in parts if (y[i] != -100).any())"]
        else:
            lines += ["    return one(model, x, y, real)"]
        return "\n".join(line for line in lines if line.strip() or not line) + "\n"

    def script(self) -> str:
        """The program as it reproduces itself, beside this file."""
        batch = ", ".join(f"{key!r}: torch.tensor({value.tolist()})" for key, value in self.batch().items())
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return (
            f"# {self.fault or 'right'}; {self}\n{PRELUDE}from random_models import model_of\n"
            f"from probes import check_loss\n\n{self.source()}\n"
            f"model = model_of({self.model!r}, {self.vocab})\nbatch = {{{batch}}}\n"
            f"report = check_loss(model, batch, loss{options})\nprint(report.verdict, report.findings)\n"
        )

    # -- what is true

    def met(self) -> dict[int, int]:
        """Which token every trained row meets, both by their number in the batch; found by the lines themselves."""
        ids, labels, mask = self._tokens()
        number = torch.arange(ids.numel()).reshape(ids.shape)
        named = number if self.labels == "aligned" else number + 1
        if self.labels != "aligned":
            named = torch.where((number + 1) % self.length == 0, OUTSIDE, named)
        coded = torch.where(labels == IGNORED, IGNORED, named)
        space: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        exec(self.source().partition("def one")[0], space)  # noqa: S102 - the text is ours
        pairs: dict[int, int] = {}
        parts = [slice(i, i + 1) for i in range(len(ids))] if self.loop else [slice(None)]
        for part in parts:
            rows, targets = space["pair"](
                number[part, :, None].double(), coded[part].clone(), number[part], mask[part] == 1
            )
            both = zip(rows.reshape(-1).long().tolist(), targets.reshape(-1).tolist(), strict=False)
            pairs |= {row: target for row, target in both if target != IGNORED}
        return pairs

    def wanted(self) -> dict[int, int]:
        """Which token every row must meet, by the labels."""
        _, labels, _ = self._tokens()
        out = {}
        for row, label in enumerate(labels.reshape(-1).tolist()):
            last = (row + 1) % self.length == 0
            if self.labels == "aligned" and label != IGNORED and row % self.length:
                out[row - 1] = row
            if self.labels != "aligned" and label != IGNORED:
                out[row] = OUTSIDE if last else row + 1
        return out

    def allowed(self) -> frozenset[str]:
        """Codes of errors that name what is wrong; none where nothing is."""
        if self.fault == "detached":
            return frozenset(("LA605",))
        if self.fault == "length":
            return frozenset(("LA101",))
        met, wanted = self.met(), self.wanted()
        if met == wanted:
            return frozenset()
        if not met:
            return frozenset(("LA205", "LA206"))
        own = {r: s for r, s in met.items() if s != OUTSIDE and r // self.length == s // self.length}
        offsets = {source - row for row, source in own.items()}
        if offsets and offsets != {1}:
            only = offsets.pop() if len(offsets) == 1 else None
            return frozenset(({None: "LA105", 0: "LA102", 2: "LA103"}.get(only, "LA104"),))
        codes = set()
        if any(s - r == 1 and r not in own for r, s in met.items()):
            codes.add("LA204")
        if met.keys() - wanted.keys() - {r for r, s in met.items() if r not in own}:
            codes.add("LA202")
        if wanted.keys() - met.keys():
            codes.update(("LA201", "LA203"))
        return frozenset(codes or {"LA105"})

    @property
    def visible(self) -> bool:
        """Whether the tokens show what is wrong: another target than wanted at some row."""
        ids, _, _ = self._tokens()
        token = {**dict(enumerate(ids.reshape(-1).tolist())), OUTSIDE: -1}
        met, wanted = self.met(), self.wanted()
        if self.key == "wanted":  # nobody says what must be trained: only what it is trained on can be wrong
            return any(token[s] != token.get(r + 1) for r, s in met.items() if wanted.get(r) != OUTSIDE)
        return {r: token[s] for r, s in met.items()} != {r: token[s] for r, s in wanted.items()}


# -- drawing ----------------------------------------------------------------------------------------------


def drawn(seed: int, number: int) -> Program:
    """Program ``number`` of a seed: right where the number is even, with one fault where it is odd."""
    pick = random.Random(f"{seed}/{number}")
    while True:
        program = _drawn(pick, faulty=bool(number % 2))
        if _is_meant(program):
            return program


def _drawn(pick: random.Random, *, faulty: bool) -> Program:
    labels = pick.choice(("aligned", "aligned", "shifted", "stream"))
    key = {"aligned": ("labels", "labels", "wanted"), "shifted": ("shift_labels", "wanted"), "stream": ("wanted",)}
    return Program(
        model=pick.choice(("llama", "gpt2", "plain", "tied")),
        vocab=pick.choice((12, 40, 128, 1024)),
        samples=pick.randint(1, 5),
        length=pick.randint(4, 14),
        ids=pick.choice(("random", "random", "repeated", "frequent", "constant")),
        mask=pick.choice(("", "prompt", "scattered", "sample")),
        padding=pick.choice(("", "", "right", "left")),
        labels=labels,
        key=pick.choice(key[labels]),
        logits=pick.choice(tuple(LOGITS)),
        after=pick.choice(("", *AFTER)),
        pairing=pick.choice(tuple(ALIGNED if labels == "aligned" else SHIFTED)),
        criterion=pick.choice(tuple(CRITERIA)),
        extra=pick.choice(("", *EXTRAS)),
        loop=pick.random() < 0.2,
        fault=pick.choice(tuple(FAULTS)) if faulty else "",
        seed=pick.randrange(10**6),
    )


def _is_meant(program: Program) -> bool:
    """Whether a program is right where it must be, and wrong in its tokens where it must be."""
    unlabelled = program.key == "wanted"
    fault = program.fault
    if unlabelled and fault in ("prompt trained", "sample dropped", "mask of the row", "half trained"):
        return False  # nobody says what must be trained
    if program.labels != "aligned" and fault in ("copy", "prompt trained", "mask of the row", "one piece"):
        return False
    if program.loop and fault in ("sample dropped", "one piece"):
        return False
    if fault == "length" and program.criterion in ("sum", "token weights") and program.pairing == "labelled":
        return False
    if program.padding and program.labels == "stream":
        return False
    if len(program.wanted()) < 3:
        return False
    if fault in ("", "detached", "length"):
        return program.met() == program.wanted() or fault == "length"
    return bool(program.met()) and program.met() != program.wanted() and program.visible


# -- judging ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What the check said of a program, and what that is: see ``KINDS``."""

    kind: str
    codes: tuple[str, ...]
    said: str = ""


#: Outcomes of right programs, then those of faulty ones.
KINDS = {
    "": ("silent", "false alarm", "blind", "refused", "crashed"),
    "fault": ("named", "misnamed", "missed", "blind", "refused", "crashed"),
}


@cache
def _model(name: str, vocab: int) -> torch.nn.Module:
    return model_of(name, vocab)


def judged(program: Program, *, replay: bool = False) -> Outcome:
    """Run the check on a program."""
    space: dict[str, Any] = {}
    exec(PRELUDE.replace("from random_losses import Own, body, whole\n", ""), space)  # noqa: S102 - the text is ours
    space |= {"Own": Own, "body": body, "whole": whole}
    exec(program.source(), space)  # noqa: S102
    try:
        model = _model(program.model, program.vocab)
        report = check_loss(model, program.batch(), space["loss"], replay=replay, **program.options)
    except (UsageError, InputError, AlignmentError) as error:
        return Outcome("refused", (type(error).__name__,), str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the next program comes
        return Outcome("crashed", (type(error).__name__,), str(error))
    said = "; ".join(f"{one.code} {one.message}" for one in report.findings)
    codes = tuple(sorted({one.code for one in report.findings if one.is_error}))
    warned = {one.code for one in report.findings if one.severity == "warning"} - {"LA301", "LA207"}
    blind = {one.code for one in report.findings if one.severity == "blind"}
    if program.key == "wanted":
        blind -= {"LA804"}  # nobody says which rows must be trained
    if not program.fault:
        kind = "false alarm" if codes or warned else "blind" if blind else "silent"
        return Outcome(kind, (*codes, *sorted(warned), *sorted(blind)), said)
    if codes:
        return Outcome("named" if set(codes) <= program.allowed() else "misnamed", codes, said)
    return Outcome("blind" if blind else "missed", tuple(sorted(blind)), said)


def shrunk(program: Program, outcome: Outcome) -> Program:
    """The fewest choices with which the same is said: each goes back to the plainest that still shows it."""
    plain = Program()
    for field in (*fields(Program), *fields(Program)):
        if field.name in ("fault", "seed"):
            continue
        simpler = replace(program, **{field.name: getattr(plain, field.name)})
        if simpler == program:
            continue
        try:
            if _fits(simpler) and _is_meant(simpler) and judged(simpler).kind == outcome.kind:
                program = simpler
        except (KeyError, RuntimeError, IndexError):
            continue
    return program


def _fits(program: Program) -> bool:
    """Whether the choices of a program that depend on each other agree."""
    pairings = ALIGNED if program.labels == "aligned" else SHIFTED
    keys = {"aligned": ("labels", "wanted"), "shifted": ("shift_labels", "wanted"), "stream": ("wanted",)}
    return program.pairing in pairings and program.key in keys[program.labels]


# -- the command ----------------------------------------------------------------------------------------------


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=None, help="of the programs (default: a fresh one)")
    parser.add_argument("--first", type=int, default=0, help="number of the first program")
    parser.add_argument("--show", type=int, metavar="N", help="print program N of the seed as a script, and judge it")
    parser.add_argument("--failures", metavar="FILE", help="write what was judged wrongly, shrunk, as JSON lines")
    parser.add_argument("--replay", type=int, default=10, metavar="N", help="replay every Nth program too (default 10)")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if chosen.show is not None:
        program = drawn(seed, chosen.show)
        print(program.script(), judged(program), program.allowed(), sep="\n")
        return 0
    return _run(seed, range(chosen.first, chosen.first + chosen.programs), chosen.failures, chosen.replay)


def _run(seed: int, numbers: range, failures: str | None, every: int) -> int:
    counts: Counter[tuple[str, str]] = Counter()
    causes: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    begun = time.monotonic()
    with Path(failures or "/dev/null").open("w", encoding="utf-8") as file:
        for number in numbers:
            program = drawn(seed, number)
            outcome = judged(program, replay=number % every in (0, 1))
            counts["fault" if program.fault else "", outcome.kind] += 1
            if outcome.kind in ("silent", "named"):
                continue
            causes[program.fault, outcome.kind, outcome.codes] += 1
            if failures:
                least = shrunk(program, outcome)
                told = {"number": number, "kind": outcome.kind, "codes": outcome.codes, "said": judged(least).said}
                file.write(json.dumps({**told, "allowed": sorted(least.allowed()), **asdict(least)}) + "\n")
                file.flush()
    for faulty, name in (("", "right"), ("fault", "faulty")):
        total = sum(counts[faulty, kind] for kind in KINDS[faulty])
        told = ", ".join(f"{kind} {counts[faulty, kind]}" for kind in KINDS[faulty] if counts[faulty, kind])
        print(f"{name}: {total} programs: {told}")
    for (fault, kind, codes), count in causes.most_common():
        print(f"  {count:6d}  {kind}: {fault or 'right'}: {' '.join(codes)}")
    print(f"seed {seed}, programs {numbers.start} to {numbers.stop - 1}, {time.monotonic() - begun:.0f} s")
    return 1 if counts["", "false alarm"] else 0


if __name__ == "__main__":
    sys.exit(main())
