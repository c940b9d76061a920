"""Notebooks run as Jupyter runs them: nbclient, and a kernel of its own whose imports are done."""

import contextlib
import os
import signal
import threading

import pytest
from ports import held_port

__all__ = ["executed"]

KERNEL = """
import os
from pathlib import Path
from ipykernel.kernelapp import launch_new_instance

Path("kernel.pid").write_text(str(os.getpid()))
launch_new_instance()
"""


def executed(warm, folder, *cells):
    """The notebook of these cells, executed; an error of a cell stands among its outputs."""
    reason = "no notebook can be run: pip install nbclient ipykernel"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import v4

    class Manager(AsyncKernelManager):
        """A kernel that is forked from a process whose imports are done."""

        async def start_kernel(self, **_):
            self.cache_ports = False
            for port in ("shell", "iopub", "stdin", "hb", "control"):
                setattr(self, f"{port}_port", held.enter_context(held_port()))
            self.write_connection_file()
            (folder / "kernel.py").write_text(KERNEL)
            words = (folder / "kernel.py", "-f", self.connection_file)
            self.thread = threading.Thread(
                target=warm.python, args=words, kwargs={"cwd": folder, "timeout": 240}, daemon=True
            )
            self.thread.start()

        async def is_alive(self):
            return self.thread.is_alive()

        async def shutdown_kernel(self, **_):
            os.kill(int((folder / "kernel.pid").read_text()), signal.SIGKILL)
            self.thread.join(20)

        _async_is_alive, _async_shutdown_kernel = is_alive, shutdown_kernel

    manager = Manager(connection_file=str(folder / "kernel.json"))
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, km=manager, allow_errors=True, timeout=120, startup_timeout=120)
    with contextlib.ExitStack() as held:
        client.execute(cleanup_kc=True)
    return notebook
