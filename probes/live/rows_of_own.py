"""Rows of a model of people's own, as it runs: out of which module's rows were those that a head has read cut?

Nothing can be run again in a script that is watched. A head that gives one row for every id needs no more; where it
is called on some of them, the module that gave its rows is known by their bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment import InputError

from ..models.called import given_by
from ..models.rows import match_rows, row_keys, rows_behind

__all__ = ["OwnRows"]


class OwnRows:
    """What the modules of one forward have given, until its heads have been called.

    Attributes:
        among: the rows that those of the last call were found among; None before.
    """

    def __init__(self) -> None:
        self.among: Tensor | None = None
        self._given: list[Tensor] = []
        self._read: list[Tensor] = []

    def note(self, module: nn.Module, arguments: Mapping[str, Any], output: Any) -> None:
        """A module was called."""
        self._read += [value.detach() for value in arguments.values() if _is_rows(value)]
        first = given_by(output)
        if _is_rows(first) and not isinstance(module, nn.Embedding):
            self._given.append(first.detach())

    def placed(self, inputs: Tensor, count: int, received: int) -> Tensor:
        """(count,) int64: the id that each row of a head call has read.

        Raises:
            InputError: the rows are cut out of none that are as many as the ids.
        """
        wanted = row_keys(inputs.detach().reshape(-1, inputs.shape[-1]))
        for given in reversed(self._given):
            if given.shape[-1] != inputs.shape[-1] or given.shape[:-1].numel() != received:
                continue
            if bool(torch.isin(wanted, row_keys(given.reshape(-1, given.shape[-1]))).all()):
                self.among = given
                return match_rows(inputs.detach(), given)[:count].cpu()
        for given in reversed(self._given):
            behind = rows_behind(self._read, given, count) if given.shape[:-1].numel() == received else None
            if behind is not None:
                self.among = given
                return behind.cpu()
        raise InputError(
            f"a head gave {count} rows for {received} ids, and no module is seen to give the rows that it reads: "
            "check the loss with check_loss, which can run it again"
        )


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2
