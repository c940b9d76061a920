"""A parser that ends no process: bad arguments are a UsageError like any other."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..errors import UsageError

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Bad arguments are a UsageError, so that a file asked for can say so.

    Attributes:
        listed: what lists all options.
    """

    listed: str = ""

    def error(self, message: str) -> NoReturn:
        """Raise.

        Raises:
            UsageError: always; the message names where all options are listed.
        """
        raise UsageError(f"{message}; see {self.listed or f'{self.prog} --help'}")
