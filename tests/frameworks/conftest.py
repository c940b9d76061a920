"""The frameworks are installed in an environment of their own: elsewhere nothing of this folder is collected."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("trl") else ["test_*.py"]
