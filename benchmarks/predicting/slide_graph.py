"""Run a graph over all spots of a slide in a process of its own, and print seconds and memory."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.runtime.ort import open_ort_session


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph", type=Path)
    parser.add_argument("spots", type=int)
    parser.add_argument("calls", type=int)
    asked = parser.parse_args()
    spec = graph_specs(ModelConfig())["global_encoder"]
    rng = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {
        "features": rng.standard_normal((asked.spots, 512), dtype=np.float32),
        "apeg_index": rng.integers(-1, asked.spots, (asked.spots, 9)),
    }
    walls, cpus = [], []
    with open_ort_session(asked.graph, spec) as session:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
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
