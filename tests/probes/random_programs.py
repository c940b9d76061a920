"""Programs of the jury of random losses: one loss, its batch and its model, by the names of the choices.

What is true is never asked of the product: the lines of a program that pair logits with labels run a second time on
numbers of rows and of tokens, and say which row meets which token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from random_choices import (
    AFTER,
    ALIGNED,
    CRITERIA,
    EXTRAS,
    FAULTS,
    IGNORED,
    LOGITS,
    PADDED,
    PRELUDE,
    ROWS,
    SHIFTED,
    TWO_AHEAD,
)
from random_models import BOOKS, ENDS
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MEANS", "OUTSIDE", "SOFT", "Program"]

#: What a target is numbered that is no input, the token after a row: this and the number of the row.
OUTSIDE = 10**6
#: Criteria whose rows have no one target: they are blind by right.
SOFT = ("soft teacher",)
#: The codes of offsets; of any other LA104.
NAMES = {0: "LA102", 2: "LA103"}
#: Criteria that mean over the targets; of the others a reduction is not declared.
MEANS = ("cross_entropy", "sum over count", "nll", "log-sum-exp", "one-hot", "categorical", "custom function", "gather")
MEANS += ("vmap", "clamped")


@dataclass(frozen=True)
class Program:
    """A program; ``fault`` is empty in a right one."""

    model: str = "llama"
    vocab: int = 128
    samples: int = 2
    length: int = 8
    ids: str = "random"
    kind: str = ""
    mask: str = ""
    padding: str = ""
    packed: bool = False
    labels: str = "aligned"
    key: str = "labels"
    logits: str = "whole model"
    after: str = ""
    pairing: str = "slices"
    criterion: str = "cross_entropy"
    extra: str = ""
    loop: bool = False
    reduction: str = ""
    accumulated: bool = False
    fault: str = ""
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What the check is told beside the batch."""
        out: dict[str, Any] = {"heads": ["head"]} if self.model == "plain" else {}
        if self.model == "books":
            place = {"head": "heads.{k}", "ids": "codes[:, {k}]", "labels": "labels[:, {k}]"}
            return {"streams": {"audio[{k}]": place}}
        out["labels"] = "position_aligned" if self.labels == "aligned" else "pre_shifted"
        if self.reduction:
            out["reduction"] = self.reduction
        return {**out, "grad_accum": 2} if self.accumulated else out

    def batch(self) -> dict[str, Tensor]:
        """The batch that the check is given."""
        ids, labels, mask = self.tokens
        if self.model == "books":
            return {"codes": self._as_kind(self._books(ids)), "labels": self._books(labels)}
        out = {"input_ids": self._as_kind(ids), self.key: labels}
        if self.model == "t5":  # what its encoder reads says nothing of its targets
            out["input_ids"] = torch.randint(ENDS, self.vocab, (len(ids), 5), generator=self._random(2))
        if self.packed:
            number = torch.arange(self.length)
            out["position_ids"] = torch.where(number < self._border, number, number - self._border).expand(ids.shape)
        return {**out, "attention_mask": mask} if self.padding else out

    def _books(self, first: Tensor) -> Tensor:
        """(B, K, T) of (B, T): the other codebooks hold other ids at the same places."""
        others = [(first - ENDS + 7 * k) % (self._high - ENDS) + ENDS for k in range(1, BOOKS)]
        return torch.stack([first, *(torch.where(first == IGNORED, IGNORED, one) for one in others)], 1)

    def _as_kind(self, ids: Tensor) -> Tensor:
        if self.kind == "int32":
            return ids.int()
        return ids.T.contiguous().T if self.kind == "not contiguous" and ids.dim() == 2 else ids

    def _random(self, which: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + which)

    @property
    def _high(self) -> int:
        """Above the largest id."""
        return self.vocab - (PADDED if self.after == "padded columns" else 1)

    @property
    def _border(self) -> int:
        """Where the second document begins."""
        return 2 + self.seed % max(self.length - 3, 1)

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) each: ids, labels and mask."""
        shape = (self.samples, self.length + 1)
        ids = self._drawn(shape)
        if self.labels == "stream":  # windows that follow each other
            line = ids.reshape(-1)[: self.samples * self.length + 1]
            first, after = (part.reshape(self.samples, -1) for part in (line[:-1], line[1:]))
        else:
            first, after = ids[:, :-1], ids[:, 1:]
        mask = self._mask(first)
        first = torch.where(mask == 1, first, 0)
        labels = (first if self.labels == "aligned" else after).clone()
        if self.labels == "shifted" and self.key != "wanted" and self.model != "t5":
            labels[:, -1] = IGNORED
        labels[self._hidden(mask)] = IGNORED
        if self.model == "t5":
            first = F.pad(labels.masked_fill(labels == IGNORED, 0)[:, :-1], (1, 0), value=0)
        return first.contiguous(), labels, mask

    def _drawn(self, shape: tuple[int, int]) -> Tensor:
        """(B, T + 1): the ids of the windows, and one more."""
        high = min(self._high, 8) if self.ids == "repeated" else self._high
        ids = torch.randint(ENDS, high, shape, generator=self._random(0))
        if self.ids == "constant":
            return torch.full(shape, 5)
        if self.ids == "frequent":
            return (ids.double() / high).pow(6).mul(high - ENDS).long() + ENDS
        return ids[:1].expand(shape).clone() if self.ids == "alike" else ids

    def _mask(self, ids: Tensor) -> Tensor:
        """(B, T): zero at padding, of which each sample has one more."""
        mask = torch.ones_like(ids)
        for sample in range(self.samples):
            cut = sample % max(self.length - 3, 1)
            if self.padding == "right" and cut:
                mask[sample, -cut:] = 0
            if self.padding == "left" and cut:
                mask[sample, :cut] = 0
        return mask

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
        if self.packed and self.fault != "joined":  # nor is that of a document the target of the one before it
            out[:, self._border - (self.labels != "aligned")] = True
        if self.mask == "prompt":
            out[:, : self.length // 2] = True
        if self.mask == "scattered":
            out |= torch.rand(out.shape, generator=self._random(1)) < 0.3
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
            if shift > 1:
                lines.append(ALIGNED["slices"].format(d=shift - 1))
            if shift < 1:
                lines.append("z, y = z[:, 1:], y[:, :-1]")
            lines.append(SHIFTED[self.pairing])
        if self.fault == "length":
            lines.append("z = z[:, :-1]" if self.pairing not in ("flatten", "labelled", "flattened") else "z = z[:-1]")
        return [line for line in lines if line]

    def source(self) -> str:
        """The functions ``pair`` and ``loss`` as text."""
        rows, kernel = self.logits in ROWS, self.logits == "kernel"
        after = "    " + AFTER[self.after] if AFTER[self.after] else ""
        two = self.extra == "two ahead"
        lines = ["def pair(z, y, x, real):", *("    " + line for line in self.pairing_lines()), "    return z, y", ""]
        lines += ["def one(model, x, y, real, z=None):"]
        lines += ["    head = model.head"] if self.logits != "whole model" else []
        lines += [] if self.model in ("t5", "books") else ["    " + (TWO_AHEAD if two else LOGITS[self.logits])]
        lines += ["" if rows else after, "    z, y = pair(z, y, x, real)"]
        lines += ["    z = head(z)", after] if rows and not kernel else []
        lines += ["    z = z.detach()"] if self.fault == "detached" else []
        lines += ["    z, y = z.reshape(-1, z.shape[-1]), y.reshape(-1)"]
        lines += ["    loss = Kernel.apply(z, head.weight, y)" if kernel else "    " + self._criterion()]
        lines += ["    " + EXTRAS[self.extra]]
        lines += ["    loss = loss + 0.2 * F.cross_entropy(w, v)"] if two else []
        return "\n".join(line for line in [*lines, "    return loss", "", *self._loss()] if line.strip() or not line)

    def _criterion(self) -> str:
        if self.fault == "one too many":
            return "loss = F.cross_entropy(z, y, reduction='sum') / ((y != -100).sum() + 1)"
        if self.accumulated and self.fault != "mean of means":
            return "loss = F.cross_entropy(z, y, reduction='sum') / items['text']"
        return CRITERIA[self.criterion]

    def _loss(self) -> list[str]:
        lines = [f"def loss(model, batch{', num_items=None' if self.accumulated else ''}):"]
        lines += ["    global items; items = num_items"] if self.accumulated else []
        if self.model == "books":
            label = "1 - k" if self.fault == "other book" else "k"
            read = f"batch['codes'][:, k].long(), batch['labels'][:, {label}].clone()"
            lines += ["    zs = model(batch['codes'])", "    real = torch.ones_like(batch['codes'][:, 0]) == 1"]
            return [*lines, f"    return sum(one(model, {read}, real, zs[k]) for k in range({BOOKS}))", ""]
        lines += [f"    x, y = batch['input_ids'].long(), batch['{self.key}'].clone()"]
        z = ""
        if self.model == "t5":
            lines += ["    e, x = x, begun(y)", "    z = whole(model, e, decoder_input_ids=x)"]
            z = ", z"
        lines += ["    real = batch.get('attention_mask', torch.ones_like(x)) == 1"]
        if not self.loop:
            return [*lines, f"    return one(model, x, y, real{z})", ""]
        lines += ["    parts = [slice(i, i + 1) for i in range(len(x))]"]
        part = f"one(model, x[i], y[i], real[i]{', z[i]' if z else ''})"
        first = ":, 1:" if self.labels == "aligned" else ":"
        return [*lines, f"    return sum({part} for i in parts if (y[i][{first}] != -100).any())", ""]

    def script(self) -> str:
        """The program as it reproduces itself, beside these files."""
        batch = ", ".join(f"{key!r}: {_written(value)}" for key, value in self.batch().items())
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return (
            f"# {self.fault or 'right'}; {self}\n{PRELUDE}from random_models import model_of\n"
            f"from probes import check_loss\n\n{self.source()}\n"
            f"model = model_of({self.model!r}, {self.vocab})\nbatch = {{{batch}}}\n"
            f"report = check_loss(model, batch, loss{options})\nprint(report.verdict, report.findings)\n"
        )

    # -- what is true

    @cached_property
    def met(self) -> dict[int, int]:
        """Which token every trained row meets, both by their number in the batch; found by the lines themselves."""
        return {row: target for part in self.parts for row, target in part.items()}

    @cached_property
    def parts(self) -> list[dict[int, int]]:
        """The same for every part of a loop, or for the one there is."""
        ids, labels, mask = self.tokens
        number = torch.arange(ids.numel()).reshape(ids.shape)
        named = number if self.labels == "aligned" else number + 1
        if self.labels != "aligned":
            named = torch.where((number + 1) % self.length == 0, OUTSIDE + number, named)
        coded = torch.where(labels == IGNORED, IGNORED, named)
        space: dict[str, Any] = {"torch": torch, "F": F}
        exec(self.source().partition("def one")[0], space)  # noqa: S102 - the text is ours
        first = self.labels == "aligned"  # whose label is no target
        parts = [slice(i, i + 1) for i in range(len(ids)) if bool((labels[i, first:] != IGNORED).any())]
        return [
            self._pairs(space["pair"], number, coded, mask, part) for part in (parts if self.loop else [slice(None)])
        ]

    @staticmethod
    def _pairs(pair: Any, number: Tensor, coded: Tensor, mask: Tensor, part: slice) -> dict[int, int]:
        rows, targets = pair(number[part, :, None].double(), coded[part].clone(), number[part], mask[part] == 1)
        both = zip(rows.reshape(-1).long().tolist(), targets.reshape(-1).tolist(), strict=False)
        return {row: target for row, target in both if target != IGNORED}

    @cached_property
    def wanted(self) -> dict[int, int]:
        """Which token every row must meet, by the labels."""
        _, labels, _ = self.tokens
        out = {}
        for row, label in enumerate(labels.reshape(-1).tolist()):
            last = (row + 1) % self.length == 0
            if self.labels == "aligned" and label != IGNORED and row % self.length:
                out[row - 1] = row
            if self.labels != "aligned" and label != IGNORED:
                out[row] = OUTSIDE + row if last else row + 1
        if self.fault == "joined":
            joined = {s * self.length + self._border - 1 for s in range(self.samples)}
            return {row: source for row, source in out.items() if row not in joined}
        return out

    @cached_property
    def allowed(self) -> frozenset[str]:
        """Codes of errors that name what is wrong; none where nothing is."""
        named = {"detached": "LA605", "length": "LA101", "other book": "LA106", "joined": "LA204"}
        named |= {"mean of means": "LA302", "one too many": "LA302"}
        if self.fault in named:
            return frozenset((named[self.fault],))
        met, wanted = self.met, self.wanted
        if met == wanted:
            return frozenset()
        if not met:
            return frozenset(("LA205", "LA206"))
        rows = self.of_rows
        if self.criterion in SOFT or self._alike:  # what the rows are trained on does not show, or not where it is from
            return rows | self._of_sources()
        return self._of_sources() or rows

    @property
    def _alike(self) -> bool:
        """Whether every trained row meets the token that comes next, wherever it was taken from."""
        token = self._token
        return all(token[s] == token[self.wanted.get(r, s)] for r, s in self.met.items())

    def _of_sources(self) -> frozenset[str]:
        """The code of an offset; none where rows meet the token after them."""
        met = self.met
        own = {r: s for r, s in met.items() if s < OUTSIDE and r // self.length == s // self.length}
        offsets = {source - row for row, source in own.items()}
        if not offsets or offsets == {1}:
            return frozenset()
        if len(offsets) > 1:
            return frozenset(("LA105",))
        return frozenset(NAMES.get(offset, "LA104") for offset in (*offsets, *self._explaining(own)))

    def _explaining(self, own: dict[int, int]) -> list[int]:
        """Offsets at which the tokens stand that the rows meet, where nothing else tells where they are from."""
        if self.key != "wanted":
            return []
        return [offset for offset in (0, 2, 3) if self._fits_at(offset, own)]

    def _fits_at(self, offset: int, own: dict[int, int]) -> bool:
        """Whether every row meets the token so far on in its batch, wherever it was taken from."""
        ids = self.tokens[0].reshape(-1).tolist()
        return all(0 <= r + offset < len(ids) and ids[r + offset] == ids[s] for r, s in own.items())

    @property
    def tells(self) -> bool:
        """Whether the tokens tell the offset at which rows meet them from every other one."""
        own = {r: s for r, s in self.met.items() if s < OUTSIDE and r // self.length == s // self.length}
        return sum(self._fits_at(offset, own) for offset in range(4)) < 2

    @property
    def of_rows(self) -> frozenset[str]:
        """Codes of rows that are trained and must not be, and of those that must be and are not."""
        met, wanted = self.met, self.wanted
        own = {r: s for r, s in met.items() if s < OUTSIDE and r // self.length == s // self.length}
        joined = {r for r, s in own.items() if self.packed and r % self.length < self._border <= s % self.length}
        codes = set()
        if any(s - r == 1 and (r not in own or r in joined) for r, s in met.items()):
            codes.add("LA204")
        if met.keys() - wanted.keys() - {r for r, s in met.items() if r not in own}:
            codes.add("LA202")
        if wanted.keys() - met.keys():
            codes.update(("LA201", "LA203"))
        return frozenset(codes or {"LA105"})

    @property
    def visible(self) -> bool:
        """Whether the tokens show what is wrong: another target than wanted at some row."""
        token = self._token
        if self.key == "wanted":  # nobody says what must be trained: only what it is trained on can be wrong
            return any(
                token[s] != token[self.wanted[r]]
                for r, s in self.met.items()
                if r in self.wanted and (r + 1) % self.length  # what comes after a window does not show
            )
        return {r: token[s] for r, s in self.met.items()} != {r: token[s] for r, s in self.wanted.items()}

    @property
    def _token(self) -> dict[int, int]:
        """The token of each number."""
        ids, labels, _ = self.tokens
        after = {OUTSIDE + row: label for row, label in enumerate(labels.reshape(-1).tolist())}
        return {**dict(enumerate(ids.reshape(-1).tolist())), **after}

    @property
    def counts(self) -> list[int]:
        """How many targets each half of the samples has."""
        half = (self.samples + 1) // 2 * self.length
        return [sum(row < half for row in self.wanted), sum(row >= half for row in self.wanted)]


def _written(value: Tensor) -> str:
    kind = ", dtype=torch.int32" if value.dtype == torch.int32 else ""
    text = f"torch.tensor({value.tolist()}{kind})"
    return text if value.is_contiguous() or value.dim() != 2 else f"{text}.T.contiguous().T"
