"""Ranks as torchrun starts them (two, or ``RANKS``), with its agent and its store, but forked: run by ``warm``.

They leave without Python's own way out, on which gloo's threads abort now and then. A rank that ends itself with
``os._exit(0)`` is waited for without end: the agent waits for what it returns.
"""

import os
import sys

import warm


def rank(*words):
    sys.exit(warm.run_as_main(words))


def launch(*words):
    from torch.distributed.elastic.multiprocessing.errors import record
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(os.environ.get("RANKS", "2")),
        run_id="tests",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    record(elastic_launch(config, rank))(*words)


if __name__ == "__main__":
    launch(*sys.argv[1:])
