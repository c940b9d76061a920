"""LA304: Every trained row of a stream is pushed away from its target."""

from __future__ import annotations

from .rule import Rule

RULE = Rule(
    "LA304",
    "pushed-away",
    "warning",
    summary="Every trained row of a stream is pushed away from its target.",
    silent="A loss with its sign turned round falls without an end, and the first steps look like progress.",
    fix="If neither a negative reward nor unlearning is meant, turn the sign of the loss round: cross-entropy is "
    "minimised, a log-likelihood is not.",
    note="Where some rows are pulled and others pushed (a preference, a reward), that is stated, not reported.",
)
