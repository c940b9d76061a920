"""The exceptions of the engine: one for bad input, one for a pairing that cannot be decided."""

from __future__ import annotations

__all__ = ["AlignmentError", "InputError"]


class InputError(ValueError):
    """An argument that no pairing could be right for: says what, where, and what to do next."""


class AlignmentError(ValueError):
    """Logits and labels that cannot be paired.

    Attributes:
        code: the finding code that names the fault (``LA101``, ``LA105``, ...).
        stream: the stream it was seen in.
    """

    def __init__(self, message: str, *, code: str, stream: str = "text") -> None:
        super().__init__(message)
        self.code = code
        self.stream = stream
