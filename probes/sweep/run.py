"""The sweep itself: every sample judged and counted, a file by several processes; and what is made of it."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

from ..errors import CannotRunError, UsageError
from ..host.stopping import check_stopped
from ..records.choice import Choice
from ..records.report import Report
from ..roles.forms import parsed
from .judge import judge
from .known import Known, known_of
from .sample import samples_of
from .source import FileSource, Source, as_source, drawn
from .tally import Tally
from .told import report_of_sweep

__all__ = ["check_data", "swept"]

#: Lines that a worker is given at a time, and how many such parts wait for each worker: what is held at once.
PART, WAITING = 256, 3
Progress = Callable[[int], None]


def check_data(
    batches: Any,
    *,
    tokenizer: Any = None,
    train_on: str | None = None,
    max_length: int | None = None,
    vocabulary: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    ignore: Sequence[str] = (),
) -> Report:
    """What a data set would train, sample by sample, without a model.

    Args:
        batches: anything that can be iterated: a loader's batches (``input_ids`` with ``labels`` or a mask, of one or
            two dimensions), rows of a data set, or conversations in any of their forms.
        tokenizer: of the data, to read roles and write words with; conversations need it.
        train_on: whose text is meant to be trained: ``assistant``, ``last`` or ``all``.
        max_length: tokens of a sample; what is longer is cut off, as a trainer does.
        vocabulary: of the model, where it is not the tokenizer's.
        sample: how many samples to draw; all without it.
        seed: of the draw.
        ignore: codes that do not count.

    Raises:
        UsageError: something that cannot be iterated, or a declaration that nobody knows.
    """
    found = as_source(batches, "batches must be something to iterate over, got")
    known = known_of(tokenizer, train_on=train_on, longest=max_length, vocabulary=vocabulary)
    source = found if sample is None else drawn(found, sample, seed)
    return report_of_sweep(swept(source, known), known, Choice.of(list(ignore), frozenset(), "ignore"))


def swept(source: Source, known: Known, *, workers: int = 1, progress: Progress = lambda _: None) -> Tally:
    """Every sample of a source, judged and counted.

    Raises:
        KeyboardInterrupt: it was interrupted; says how far it came.
        CannotRunError: a worker ended.
    """
    tally = Tally()
    try:
        with closing(_parts(source, known, workers)) as parts:
            for part in parts:
                tally.add(part)
                progress(tally.samples)
                check_stopped()
    except KeyboardInterrupt as error:
        told = str(error) or "interrupted"
        raise KeyboardInterrupt(f"{told} after {tally.samples:,} samples; nothing is known of the rest") from error
    return tally


def _parts(source: Source, known: Known, workers: int) -> Iterator[Tally]:
    items = _numbered(source)
    lined = isinstance(source, FileSource)
    if not lined or workers < 2:
        while part := list(islice(items, PART if lined else 1)):
            yield counted(part, known)
        return
    with _pool(workers, known) as pool:
        waiting: deque[Future[Tally]] = deque()
        try:
            while part := list(islice(items, PART)):
                waiting.append(pool.submit(_counted, part))
                if len(waiting) > WAITING * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise CannotRunError(
                "a worker of the sweep has ended (killed, or out of memory): run again with fewer --workers"
            ) from error


def _numbered(source: Source) -> Iterator[tuple[Any, str]]:
    if isinstance(source, FileSource):
        yield from source.lines()
        return
    for number, item in enumerate(source):
        yield item, f"batch {number}" if _is_batch(item) else f"sample {number}"


def _is_batch(item: Any) -> bool:
    ids = item.get("input_ids") if hasattr(item, "get") else None
    return len(getattr(ids, "shape", ())) > 1 or (
        isinstance(ids, (list, tuple)) and any(hasattr(r, "__len__") for r in ids[:1])
    )


def counted(part: Sequence[tuple[Any, str]], known: Known) -> Tally:
    """Some items, judged and counted; one that cannot be read is counted as that."""
    tally = Tally()
    for item, where in part:
        _count(tally, item, where, known)
    return tally


def _count(tally: Tally, item: Any, where: str, known: Known) -> None:
    try:
        for sample in samples_of(parsed(item, where) if isinstance(item, str) else item, where, known):
            tally.count(sample, judge(sample, known))
    except UsageError as error:
        tally.misread(str(error))


# -- workers -------------------------------------------------------------------------------------------


@contextmanager
def _pool(workers: int, known: Known) -> Iterator[ProcessPoolExecutor]:
    """Processes that know what this one knows; they end with it, whatever ends it."""
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(kind), _begin, (known,))
    try:
        yield pool
    except BaseException:  # an interrupt too: no worker goes on alone
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 - nothing else ends them in their work
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_known = Known()


def _begin(known: Known) -> None:
    global _known  # noqa: PLW0603 - a worker knows one thing
    _known = known
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it answers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _counted(part: Sequence[tuple[Any, str]]) -> Tally:
    return counted(part, _known)
