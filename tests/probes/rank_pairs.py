"""Ranks of a run without a launcher: the variables that one would set, and exchanges between threads."""

from ports import held_port

from probes.ranks import RankExchange


def launched(rank, world, port, **more):
    """The environment of one rank; the first one serves the store."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"} | more


def exchanges(world=2, timeout=5, come=None):
    """The exchanges of the first ``come`` ranks of ``world``; the store is given longer: a machine may be busy."""
    with held_port() as port:
        ranks = [launched(rank, world, port) for rank in range(come or world)]
        pairs = [RankExchange.from_environment(60, environ=environ) for environ in ranks]
    for exchange in pairs:
        exchange.timeout = timeout
    return pairs
