"""LA301: The weights of a stream are constant inside a sample, segment or chunk and differ between them."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA301",
    "uneven-weights",
    "warning",
    summary="The weights of a stream are constant inside a sample, segment or chunk and differ between them.",
    silent="A mean of means is a valid loss of the right size; it only makes tokens of short samples count more.",
    fix="Sum over all targets and divide once, or declare the mean that is meant: `--reduction "
    "token-mean|sequence-mean|sum`.",
    note="Chosen weights (class weights, focal loss, rewards) are stated under `streams`, not reported.",
)
