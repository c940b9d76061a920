"""What a Python process does first that a watched run has started: copied, as ``sitecustomize``, in front of its path.

It runs the ``sitecustomize`` that it hides, and waits for an optimizer: a process that makes none trains nothing, and
pays for nothing else. Any Python that trains can run it: of ours it imports nothing before that.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs a start more than all else
#: The module that holds the class of all optimizers.
AWAITED = "torch.optim.optimizer"


class Waiting:
    """Finds one module as everyone else would, and has it tell of the first optimizer that is made."""

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN201
        """The module's own spec."""
        if name != AWAITED:
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            after_loading(spec.loader)
        return spec


def after_loading(loader):  # noqa: ANN001, ANN201
    """Wait for the first optimizer as soon as a loader has made the module that is awaited."""
    own = loader.exec_module

    def exec_module(module):  # noqa: ANN001, ANN202
        del loader.exec_module
        own(module)
        before_first(module.Optimizer)

    loader.exec_module = exec_module


def before_first(kind):  # noqa: ANN001, ANN201
    """Have this process watched before it makes the first object of a class."""
    import functools

    own = kind.__init__

    @functools.wraps(own)
    def first(self, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202
        if kind.__init__ is first:
            kind.__init__ = own
            follow()
        own(self, *args, **kwargs)

    kind.__init__ = first


def follow():  # noqa: ANN201
    """Have this process watched, or leave word why it cannot be; whatever is wrong with us, it goes on."""
    import json

    try:
        with open(os.path.join(FOLDER, "ours.json"), encoding="utf-8") as stream:  # noqa: PTH118, PTH123
            why = hindrance(json.load(stream))
        if not why:
            from probes.processes.child import follow as begin

            begin(FOLDER)
            return
    except OSError:
        return  # the run that started it has ended
    except Exception as error:  # noqa: BLE001 - whatever is wrong with us, it goes on
        why = f"{type(error).__name__}: {error}"
    told = {"name": os.path.basename(sys.argv[0]), "why": why}  # noqa: PTH119
    try:
        with open(os.path.join(FOLDER, f"{os.getpid()}.unwatched"), "w", encoding="utf-8") as stream:  # noqa: PTH118, PTH123
            json.dump(told, stream)
    except OSError:
        return


def hindrance(ours):  # noqa: ANN001, ANN201
    """Why our packages cannot be used here; empty if they can. ``ours`` is the file of each."""
    import importlib.util

    for name, origin in ours.items():
        spec = importlib.util.find_spec(name)
        if spec is None:
            return f"{sys.executable} has no loss-alignment: install it there"
        if spec.origin != origin:
            return f"its package {name} is {spec.origin}, not that of the loss-align which was started"
    return ""


def run_hidden():  # noqa: ANN201
    """Run the ``sitecustomize`` that this one hides, in its place."""
    import importlib.machinery
    import importlib.util

    spec = importlib.machinery.PathFinder.find_spec(__name__)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[__name__] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != FOLDER]  # noqa: PTH100
    sys.meta_path.insert(0, Waiting())
    run_hidden()
