"""Where a record comes from: model, configuration, versions, device, command, and the commit it was made at."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..host.walk import config_of

__all__ = ["config_hash", "git_state", "provenance"]

#: Entries of a configuration that say where and by which version it was written, not what the model is.
INCIDENTAL = ("_name_or_path", "transformers_version")
PATIENCE = 10.0


def provenance(model: nn.Module, environment: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The provenance of a record.

    Args:
        model: the innermost one, whose configuration counts.
        environment: of the run: model, versions, device, dtype, seed.
        command: the command line that makes the record again.
    """
    return {**environment, "config": config_hash(model), "command": command, **git_state()}


def config_hash(model: nn.Module) -> str | None:
    """SHA-256 of the model's configuration; None where it has none."""
    config = config_of(model)
    if not hasattr(config, "to_dict"):
        return None
    told = json.dumps(_essential(config.to_dict()), sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(told.encode()).hexdigest()


def _essential(value: Any) -> Any:
    """A configuration without what differs between two copies of one model, its keys all words."""
    if isinstance(value, Mapping):
        return {str(key): _essential(entry) for key, entry in value.items() if key not in INCIDENTAL}
    return [_essential(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def git_state() -> dict[str, str | bool | None]:
    """``commit`` and ``dirty`` (a tracked file differs from it) of the working folder; None outside a repository."""
    commit = _git("rev-parse", "--verify", "HEAD")
    changed = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*words: str) -> str | None:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", *words],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=PATIENCE,
            env=quiet,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
