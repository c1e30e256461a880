"""Run a graph over all spots of a slide in a process of its own, and print seconds and memory."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from triplex_deploy.bench.machine import forget_peak_memory
from triplex_deploy.bench.work import made_up_inputs
from triplex_deploy.contract import graph_specs
from triplex_deploy.contract.registry import config_from_dict
from triplex_deploy.runtime.ort import open_ort_session


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph", type=Path)
    parser.add_argument("config", help="the model's configuration as JSON")
    parser.add_argument("spots", type=int)
    parser.add_argument("calls", type=int)
    asked = parser.parse_args()
    spec = graph_specs(config_from_dict(json.loads(asked.config)))["global_encoder"]
    inputs = made_up_inputs(spec, asked.spots, seed=0, n_positions=1)
    walls, cpus = [], []
    with open_ort_session(asked.graph, spec) as session:
        forget_peak_memory()  # of loading the graph
        before = _status_bytes("VmRSS")
        for _ in range(asked.calls):
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(inputs)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        peak_mb = (_status_bytes("VmHWM") - before) / 1e6
    print(json.dumps({"walls": walls, "cpu_s": min(cpus), "peak_mb": peak_mb}))


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


if __name__ == "__main__":
    _main()
