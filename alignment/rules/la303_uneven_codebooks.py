"""LA303: Codebooks weigh differently in the loss."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA303",
    "uneven-codebooks",
    "warning",
    summary="Codebooks weigh differently in the loss.",
    silent="The codebooks are summed into one number before anybody looks at it.",
    fix="Give every codebook the same weight and denominator; where the difference is meant, pass `--ignore LA303`.",
)
