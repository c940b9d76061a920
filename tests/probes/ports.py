"""Ports of this machine that tests which run beside each other do not take from each other."""

import contextlib
import socket


@contextlib.contextmanager
def held_port():
    """A port that nobody else is given meanwhile: bound, but not listened at, which whom it is held for may do."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
