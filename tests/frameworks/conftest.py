"""The frameworks are installed in an environment of their own: elsewhere what needs them is not collected."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("trl") else ["test_lightning.py", "test_loggers.py", "test_table.py"]
