"""The fault matrix: sample trainers with one known fault each, and correct ones, against what is said of them.

``python tests/probes/fault_matrix.py`` runs all of it, ``--quick`` every case once, and prints one line per
class of fault; it exits 1 unless every fault is named, by its own findings only, and correct code raises nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from as_released import as_released, v2_of
from fault_cases import CORRECT, FAULTS, TITLES, V2, Case
from narrow import narrow_config, narrowed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from probes import barcoded_batch, check_loss
from probes.fuzzing.cases import Case as LineCase
from probes.fuzzing.cases import End, Reference, Target, Text
from probes.models import Batch
from probes.witness.loss_file import load_loss

FIXTURES = Path(__file__).parents[2] / "fixtures"
LENGTH = 96
CHATML = FIXTURES / "chatml" / "speech.jsonl"


with contextlib.suppress(OSError, AttributeError):
    # glibc maps large tensors anew each time, and faults in every page: taken from the heap again, they cost half
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_MAX, 0)
    ctypes.CDLL("libc.so.6").mallopt(M_TRIM_THRESHOLD, 1 << 30)


@dataclass(frozen=True)
class Outcome:
    """What one run said: errors, warnings and blind spots as ``CODE modality``, and their messages."""

    case: Case
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    messages: str
    blind: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``named``, ``misnamed``, ``missed`` or ``false alarm`` of a fault; ``silent`` or ``false alarm`` else."""
        case = self.case
        known = _by_severity(case.errors, case.warnings)
        said = _by_severity(self.errors, self.warnings)
        if not case.fault:  # correct code may be warned of, and need not be
            return "silent" if said <= known and self.blind == case.blind else "false alarm"
        if not said:
            return "missed"
        if not known <= said:
            return "misnamed"
        return "named" if said == known else "false alarm"


def _by_severity(errors: Iterable[str], warnings: Iterable[str]) -> set[tuple[str, str]]:
    return {("error", one) for one in errors} | {("warning", one) for one in warnings}


# -- models and batches -----------------------------------------------------------------------------


@functools.cache
def model_for(kind: str, dtype: torch.dtype = torch.float32, *, narrow: bool = False) -> nn.Module:
    """One instance per kind, dtype and vocabulary: a check leaves no trace in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _make(kind, narrow=narrow).to(dtype)


def _make(kind: str, *, narrow: bool) -> nn.Module:
    if kind == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        return LlamaForCausalLM(LlamaConfig(vocab_size=512, num_attention_heads=4, **sizes))
    from probes.models import higgs, higgs_v2

    own = narrow_config if narrow else lambda config: config
    if kind == "higgs_v2":
        return higgs_v2.small_model(config=own(higgs_v2.small_config(hidden=32, layers=1)))
    model = higgs.small_model(config=own(higgs.small_config()))
    if kind == "higgs":
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))


def text_batch(size: int, length: int = 40) -> Batch:
    """Prompt and answer per sample, right-padded, of unequal lengths; labels position-aligned."""
    lengths = [length - 3 * index for index in range(size)]
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(0))[: size * length].reshape(size, length) + 3
    ids[torch.arange(size), torch.tensor(lengths) - 1] = 2
    ids = ids.masked_fill(mask == 0, 0)
    answer = (torch.arange(length) >= torch.tensor([9 + 2 * n for n in range(size)])[:, None]) & mask.bool()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~answer, -100)}


def packed_batch(size: int) -> Batch:
    """Three documents to a row that see each other nowhere, the ids of each labelled from the first on."""
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(0))[: size * 40].reshape(size, 40) + 3
    positions = torch.cat([torch.arange(n) for n in (17, 11, 12)])
    document = (positions == 0).cumsum(0)
    apart = (document[:, None] == document).tril().expand(size, 1, -1, -1)
    return {
        "input_ids": ids,
        "attention_mask": apart,
        "position_ids": positions.expand(size, -1),
        "labels": ids.clone(),
    }


def released_batch(size: int) -> Batch:
    """Real samples, as the released data path collates them; the first has untrained and trained audios."""
    from probes.batches.chatml import byte_tokenizer, chatml_samples, collate_copies, read_chatml

    first, second, *rest = read_chatml(CHATML)
    config, records = model_for("higgs").config, [second, first, *rest][:size]
    books = config.audio_num_codebooks
    return collate_copies(chatml_samples(records, byte_tokenizer(), codebooks=books, base_dir=CHATML.parent), config)


def fuzzed_batch(size: int, seed: int = 0) -> Batch:
    """Pieces drawn at random, in any order; every sample has what each fault needs to show."""
    draw = random.Random(seed)
    samples = []
    for _ in range(size):
        pieces = [
            Text(draw.randint(4, 9), draw.choice("apx")),
            Target(draw.randint(4, 9), trained=True),
            Target(draw.randint(4, 9), trained=True),
            Target(draw.randint(1, 9), trained=False),
            Reference(draw.randint(0, 5)),
            Text(draw.randint(1, 5), draw.choice("apoxn")),
        ]
        draw.shuffle(pieces)
        samples.append((Text(draw.randint(3, 6), "n"), *pieces, Text(draw.randint(4, 9), "a"), End(labelled=True)))
    return LineCase(tuple(samples)).higgs_batch()


#: Where the batches of the Higgs model come from.
SOURCES = {
    "barcoded": lambda size: barcoded_batch(size, length=LENGTH),
    "seed document": lambda size: barcoded_batch(size, length=256),
    "chatml": released_batch,
    "fuzzed": fuzzed_batch,
}


def narrows(case: Case) -> bool:
    """Whether a case can be run on a narrow vocabulary: nothing of its code or collator names a published id."""
    return case.model not in {"llama", "chatml"} and not case.published


def batch_of(case: Case, size: int, source: str = "barcoded", *, narrow: bool = False) -> Batch:
    """The batch of a case, as its data code prepares it."""
    if case.prepare == "packed":
        return packed_batch(size)
    batch = text_batch(size) if case.model == "llama" else SOURCES[source](size)
    if case.prepare:
        where = case.prepare if ":" in case.prepare else f"{case.file}:{case.prepare}"
        batch = load(where)(batch)
    batch = v2_of(batch) if case.model == "higgs_v2" else batch
    return narrowed(batch) if narrow else batch


def loss_of(case: Case) -> Any:
    """The loss of a case, as its model is called."""
    loss = load(case.loss)
    return as_released(loss) if case.model == "higgs_v2" and case.file != "higgs_v2" else loss


@functools.cache
def load(where: str) -> Any:
    """A function of a sample trainer, by ``file:function``: as a script calls it, without the guard of ``--loss``."""
    file, _, name = where.partition(":")
    return load_loss(f"{FIXTURES / 'trainers' / file}.py:{name}").__wrapped__


def missing_model(case: Case) -> str | None:
    """Why the model of a case is not here; None if it is."""
    from probes.models import higgs, higgs_v2

    if case.model == "llama":
        return None
    return (higgs_v2 if case.model == "higgs_v2" else higgs).why_unavailable()


# -- running ----------------------------------------------------------------------------------------


def run(
    case: Case,
    size: int = 2,
    dtype: torch.dtype = torch.float32,
    source: str = "barcoded",
    *,
    narrow: bool = False,
    replay: bool = True,
) -> Outcome:
    """Check one case on one batch."""
    narrow = narrow and narrows(case)
    model = model_for("higgs" if case.model == "chatml" else case.model, dtype, narrow=narrow)
    findings = []
    if case.model == "chatml":
        batch, findings = collated(case, size, model)
    else:
        batch = batch_of(case, size, source, narrow=narrow)
    findings = [*findings, *check_loss(model, batch, loss_of(case), replay=replay, **case.options).findings]
    said = {
        severity: tuple(sorted({short(f) for f in findings if f.severity == severity}))
        for severity in ("error", "warning", "blind")
    }
    messages = "\n".join(f"{f.code} {f.stream} ({f.count}): {f.message}" for f in findings)
    return Outcome(case, said["error"], said["warning"], messages, said["blind"])


def short(finding: Any) -> str:
    """Code and modality."""
    return f"{finding.code} {finding.stream.partition('[')[0]}"


def collated(case: Case, size: int, model: Any) -> tuple[Batch, list[Any]]:
    """The last epoch's batch of ChatML samples kept in memory, and what the label rules say of it."""
    from probes.batches.chatml import byte_tokenizer, chatml_samples, collate_released, read_chatml
    from probes.batches.chatml_rules import label_rule_findings

    records, config, tokenizer = read_chatml(CHATML)[:size], model.config, byte_tokenizer()
    books = config.audio_num_codebooks
    samples = chatml_samples(records, tokenizer, codebooks=books, base_dir=CHATML.parent)
    batch = load(f"{case.file}:{case.prepare}")(samples, lambda kept: collate_released(kept, config))
    return batch, label_rule_findings(batch, records, config, tokenizer=tokenizer)


Run = tuple[Case, int, torch.dtype, str]


def grid(cases: Iterable[Case] = (*FAULTS, *CORRECT, *V2)) -> Iterator[Run]:
    """Every case at every batch size and once in bfloat16; then on batches of the other sources, in both dtypes."""
    for case in cases:
        for size in case.sizes:
            yield case, size, torch.float32, "barcoded"
        if case.half:
            yield case, 2, torch.bfloat16, "barcoded"
    for case in cases:
        for source in case.sources:
            for size in {1, 3} & set(case.sizes):
                yield case, size, torch.float32, source
                if case.half:
                    yield case, size, torch.bfloat16, source


# -- telling ----------------------------------------------------------------------------------------


def table_of(outcomes: Iterable[Outcome]) -> tuple[Table, bool]:
    """Fault by finding, with counts; and whether all are named and none is false."""
    counts: dict[tuple[int, str], Counter[str]] = {}
    for outcome in outcomes:
        due = ", ".join((*outcome.case.errors, *outcome.case.warnings)) if outcome.case.fault else "nothing"
        counts.setdefault((outcome.case.fault, due), Counter())[outcome.verdict] += 1
    table = Table("#", "fault", "finding", "planted", "named", "misnamed", "missed", "false alarms")
    for (fault, due), count in sorted(counts.items(), key=lambda item: (item[0][0] or 99, item[0][1])):
        verdicts = ("named" if fault else "silent", "misnamed", "missed", "false alarm")
        cells = [str(count[verdict]) for verdict in verdicts]
        table.add_row(str(fault or ""), TITLES.get(fault, "correct code"), due, str(count.total()), *cells)
    good = all(set(count) <= {"named", "silent"} for count in counts.values())
    return table, good


def main() -> int:
    """Run the matrix: all of it, or with ``--quick`` every case once (batch of two, float32)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logging.disable()  # the sample trainers log what they swallow
    console = Console()
    every = [one for one in grid() if not quick or one[1:] == (2, torch.float32, "barcoded")]
    runs = [one for one in every if not missing_model(one[0])]
    outcomes = [run(*one) for one in track(runs, description="fault matrix", console=console, transient=True)]
    table, good = table_of(outcomes)
    console.print(table)
    for reason, count in Counter(filter(None, (missing_model(one[0]) for one in every))).items():
        console.print(f"{count} runs left out: {reason}", highlight=False)
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()), highlight=False)
    for outcome, (case, size, dtype, source) in zip(outcomes, runs, strict=True):
        if outcome.verdict not in {"named", "silent"}:
            where = f"{source}, batch {size}, {dtype}"
            console.print(f"{outcome.verdict}: {case} ({where})\n{outcome.messages}", highlight=False)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
