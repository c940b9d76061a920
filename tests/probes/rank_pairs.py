"""Ranks of a run without a launcher: the variables that one would set, and exchanges between threads."""

import socket

from probes.ranks import RankExchange


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launched(rank, world, port, **more):
    """The environment of one rank; the first one serves the store."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"} | more


def exchanges(world=2, timeout=5, come=None):
    """The exchanges of the first ``come`` ranks of ``world``; the store is given longer: a machine may be busy."""
    port = free_port()
    pairs = [RankExchange.from_environment(60, environ=launched(rank, world, port)) for rank in range(come or world)]
    for exchange in pairs:
        exchange.timeout = timeout
    return pairs
