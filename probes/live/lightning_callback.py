"""The Lightning callback: what does the first step of a ``Trainer.fit`` train, before it moves a weight?

Trainer(callbacks=[LightningAlignmentCallback()])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

try:
    from lightning.pytorch import Callback
except ImportError:  # the package under its other name
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ImportError("LightningAlignmentCallback is for Lightning, which is not installed here") from error

from ..checks.reduction import Reduction
from ..errors import check_choice
from ..models.stream_entries import read_streams
from ..records.choice import Choice
from ..records.report import Report
from ..witness.with_roles import template
from .first_step import FirstStep, OnFindings, acted_on
from .loggers import log_report

__all__ = ["LightningAlignmentCallback"]


class LightningAlignmentCallback(Callback):
    """Check what the first optimizer step of a Lightning ``Trainer``, automatic or manual, trains, before it moves.

    >>> Trainer(callbacks=[LightningAlignmentCallback(on_findings="warn")])  # doctest: +SKIP

    The step's own forwards and backwards are read; none is run a second time, but for the replay of the first.

    Attributes:
        report: what was found; None until the first step.

    Args:
        on_findings: ``fail`` raises :class:`probes.report.LossAlignmentError` where the report fails, and warns where
            it is incomplete; ``warn`` warns, ``report`` only shows it.
        heads: names of head modules, where neither an adapter nor ``get_output_embeddings()`` tells.
        reduction: ``token-mean``, ``sequence-mean`` or ``sum``: declares what the weights of the step keep to, over all
            its micro-batches (LA302).
        ignore: codes that do not count. A blind spot is accepted by name: ``LA801:codec_head``, ``LA802:text``.
        streams: what the heads of a model of your own predict, declared as for ``check_loss``.
        train_on: ``assistant``, ``last`` or ``all``: declares whose text is trained (LA208).
        tokenizer: of the batches, with its chat template.

    Raises:
        UsageError: an unknown ``on_findings``, ``reduction``, ``train_on`` or code; ``train_on`` without a tokenizer.
    """

    def __init__(
        self,
        on_findings: OnFindings = "fail",
        *,
        heads: Sequence[str] = (),
        reduction: Reduction | None = None,
        ignore: Sequence[str] = (),
        streams: Mapping[str, Any] | None = None,
        train_on: str | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        check_choice(on_findings, "on_findings", get_args(OnFindings))
        if reduction is not None:
            check_choice(reduction, "reduction", get_args(Reduction))
        self.on_findings, self.heads, self.reduction = on_findings, tuple(heads), reduction
        self.keep = Choice.of(ignore)
        self.streams = () if streams is None else read_streams(streams)
        self.template = template(tokenizer, train_on)
        self.report: Report | None = None
        self._first: FirstStep | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch from the first batch on; a fit that is resumed is checked again."""
        self.report = None
        self._first = FirstStep(self.heads, self.streams, self.keep, self.template, reduction=self.reduction)
        self._first.begin()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """All backwards of a step have ended, and it has not begun."""
        if self._first is not None:
            report = self._first.about_to_step(getattr(optimizer, "optimizer", optimizer))
            if report is not None:
                self._tell(trainer, report)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A fit that made no step is told as far as it was seen."""
        if self._first is not None:
            self._tell(trainer, self._first.end())

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave no trace where a fit breaks off."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave no trace."""
        if self._first is not None:
            self._first.leave()
            self._first = None

    def _tell(self, trainer: Any, report: Report) -> None:
        self._first, self.report = None, report
        if trainer.is_global_zero:
            log_report(report, trainer.loggers)
        acted_on(report, self.on_findings, speaks=trainer.is_global_zero)
