"""The commands: one a file, each with NAME, HELP, DESCRIPTION, add_arguments(parser) and run(args)."""

from __future__ import annotations

from . import completion, data, diff, discover, env, explain, fuzz, preflight, probe, record, rules, run

__all__ = ["COMMANDS"]

COMMANDS = (preflight, data, discover, run, probe, explain, record, diff, fuzz, rules, env, completion)
