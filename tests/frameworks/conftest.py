"""The frameworks are installed in an environment of their own: elsewhere what needs them is not collected."""

import importlib.util
from pathlib import Path

#: What needs none of them.
ANYWHERE = {"test_before_after.py"}
HERE = {path.name for path in Path(__file__).parent.glob("test_*.py")}

collect_ignore = [] if importlib.util.find_spec("trl") else sorted(HERE - ANYWHERE)
