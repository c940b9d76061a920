"""``os.exec``: a script that makes another program of its process ends here, and that one is followed as its child."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from .children import Children
from .command import waited_for

__all__ = ["instead_of_exec"]


@contextmanager
def instead_of_exec(children: Children, look: Callable[[], None]) -> Iterator[None]:
    """Start the program as a process that is followed, wait for its end, and leave by ``os._exit`` with its code.

    All of ``os.exec*`` come to these two. Forks of this process become what they would.

    Args:
        children: by which it is followed.
        look: called meanwhile, again and again.
    """
    own, process = (os.execv, os.execve), os.getpid()

    def execv(path: Any, args: Sequence[Any]) -> NoReturn:
        execve(path, args, os.environ)

    def execve(path: Any, args: Sequence[Any], env: Mapping[Any, Any]) -> NoReturn:
        if os.getpid() != process:
            own[1](path, args, env)
        environ = children.environment({os.fsdecode(key): os.fsdecode(value) for key, value in env.items()})
        os._exit(waited_for([*args], environ, lambda _: look(), executable=path, close_fds=False))

    os.execv, os.execve = execv, execve
    try:
        yield
    finally:
        if (os.execv, os.execve) == (execv, execve):
            os.execv, os.execve = own
