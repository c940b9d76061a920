"""The command's front door: makes sure that the packages behind it are ours, then hands over.

``alignment`` and ``probes`` are generic names. Where another package of that name comes first on the
path, one clear error names it (exit code 3) instead of whatever its code would raise.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["foreign_package", "main"]

DISTRIBUTION = "loss-alignment"


def foreign_package() -> str | None:
    """Which package is not ours, and where it lies; None if all is well."""
    for name in ("alignment", "probes"):
        try:
            package = importlib.import_module(name)
        except ImportError as error:
            return f"package {name!r} cannot be imported ({error}): reinstall {DISTRIBUTION}"
        if getattr(package, "__distribution__", None) != DISTRIBUTION:
            where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", ["?"])))
            return (
                f"package {name!r} was imported from {where}, which does not belong to {DISTRIBUTION}: "
                "rename that folder, or run from elsewhere"
            )
    return None


def main(argv: list[str] | None = None) -> int:
    """Run ``loss-align``; returns its exit code."""
    problem = foreign_package()
    if problem is not None:
        print(f"loss-align: {problem}", file=sys.stderr)
        return 3
    from probes.commands.cli import run

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
