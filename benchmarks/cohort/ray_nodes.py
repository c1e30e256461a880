"""Predict slides on two Ray nodes of this machine; prints its seconds and its memory as JSON.

    python -m benchmarks.cohort.ray_nodes SLIDE_LIST OUT TRACES

A process of its own, as Ray leaves threads and sockets behind.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    from benchmarks.cohort.finished import plan, predict
    from triplex_deploy.system import peak_memory_mb

    listed, out, traces = map(Path, sys.argv[1:])
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=100_000_000)
        os.environ["RAY_ADDRESS"] = cluster.address
        jobs = plan(listed, out)
        begin = time.perf_counter()
        outcomes = predict(jobs, traces, "ray", 2)
        seconds = time.perf_counter() - begin
        done = sum(outcome.status == "done" for outcome in outcomes)
        found = {"seconds": seconds, "done": done, "memory_mb": peak_memory_mb()}
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
