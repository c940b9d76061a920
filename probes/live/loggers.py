"""A report where a run is logged: W&B, TensorBoard, MLflow and trackio, each as the framework has opened it.

Nothing is imported that the run has not imported itself, and what a logger raises is a warning: no training ends by it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ..records.report import Report
from ..report import html, markdown

__all__ = ["log_report"]

NAME = "loss_alignment"
COLUMNS = ("stream", "rows", "expected", "supervised", "missing", "unexpected", "offsets")


def log_report(report: Report, loggers: Iterable[Any]) -> None:
    """Write verdict, table of streams and page into every logger that is known.

    Args:
        report: of the run's first step.
        loggers: the logging callbacks of a ``transformers.Trainer``, or the loggers of a Lightning one.
    """
    for one in loggers:
        write = _KNOWN.get(type(one).__name__)
        if write is None:
            continue
        try:
            write(one, report)
        except Exception as error:  # noqa: BLE001 - a logger of any version, which may refuse what it is given
            warnings.warn(f"the report could not be logged by {type(one).__name__}: {error}", stacklevel=2)


def _rows(report: Report) -> list[list[Any]]:
    """The table of streams: one row each."""
    entries = [{"stream": name, **entry} for name, entry in report.streams.items()]
    return [
        [entry[key] if key in ("stream", "rows") else str(entry.get(key, "?")) for key in COLUMNS] for entry in entries
    ]


def _to_wandb(run: Any, report: Report) -> None:
    wandb = sys.modules["wandb"]
    run.summary[f"{NAME}/verdict"] = report.verdict
    run.summary[f"{NAME}/codes"] = ", ".join(one.code for one in report.findings)
    table = wandb.Table(columns=list(COLUMNS), data=_rows(report))
    media = {f"{NAME}/streams": table, f"{NAME}/page": wandb.Html(html.render(report), inject=False)}
    run.log(media, commit=False)  # beside the step's own numbers: the count of steps stays the run's


def _to_tensorboard(writer: Any, report: Report) -> None:
    writer.add_text(NAME, markdown.render(report), 0)
    writer.flush()


def _to_mlflow(client: Any, report: Report, *run: str) -> None:
    client.set_tag(*run, f"{NAME}.verdict", report.verdict)
    client.log_text(*run, markdown.render(report), f"{NAME}.md")
    client.log_text(*run, html.render(report), f"{NAME}.html")


def _to_trackio(trackio: Any, report: Report) -> None:
    trackio.log({NAME: trackio.Markdown(markdown.render(report))})


def _opened(package: str) -> Any:
    """A package that the run itself has imported and opened."""
    return sys.modules[package]


_KNOWN: dict[str, Callable[[Any, Report], None]] = {
    # callbacks of transformers' Trainer
    "WandbCallback": lambda _, report: _to_wandb(_opened("wandb").run, report),
    "TensorBoardCallback": lambda one, report: _to_tensorboard(one.tb_writer, report),
    "MLflowCallback": lambda _, report: _to_mlflow(_opened("mlflow"), report),
    "TrackioCallback": lambda _, report: _to_trackio(_opened("trackio"), report),
    # loggers of Lightning
    "WandbLogger": lambda one, report: _to_wandb(one.experiment, report),
    "TensorBoardLogger": lambda one, report: _to_tensorboard(one.experiment, report),
    "MLFlowLogger": lambda one, report: _to_mlflow(one.experiment, report, one.run_id),
}
