"""``loss-align env``: versions and devices, for a bug report."""

from __future__ import annotations

import argparse
import json
import platform

NAME = "env"
HELP = "versions and devices for a bug report"
DESCRIPTION = "Versions and devices, for a bug report."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    from ..host.environment import versions

    found = {"python": platform.python_version(), "platform": platform.platform(), **versions(), **_devices()}
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    width = max(len(key) for key in found)
    for key, value in found.items():
        print(f"{key:<{width}}  {value or '(not installed)'}")
    return 0


def _devices() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        return {"device": f"torch does not import: {error}"}
    cuda = (
        [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    from ..models import higgs, higgs_v2

    return {
        "cuda": torch.version.cuda or "cpu build",
        "devices": ", ".join(cuda) or "cpu",
        "threads": str(torch.get_num_threads()),
        "released Higgs model": higgs.why_unavailable() or "importable",
        "transformers' Higgs model": higgs_v2.why_unavailable() or "importable",
    }
