"""Runs that are killed and started again: what they end with, and what a second model costs."""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Timing
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots

ROOT = Path(__file__).resolve().parents[2]


def measure_cache(
    slide: Path, bundle: Path, spots: Spots, mpp: float
) -> tuple[list[Timing], dict[str, float]]:
    """The same spots twice with one cache; to the cache, the second run is another model's."""
    with tempfile.TemporaryDirectory() as folder, load_bundle(bundle).open(device="cpu") as model:
        options = PredictOptions(spots=spots, mpp=mpp, cache=Path(folder))
        timings = []
        for name in ("first model, empty cache", "second model, same frozen encoder"):
            begin, cpu = time.perf_counter(), time.process_time()
            run = predict_slide(slide, model, options).run
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            facts = {key: run[key] for key in ("tiles_encoded", "tiles_from_cache", "timings_s")}
            reason = "models on one frozen encoder need its features once"
            timings.append(Timing(name, reason, [wall], cpu, run["peak_memory_mb"], facts))
    first, second = timings
    return timings, {"second_model_over_first": first.best_s / second.best_s}


def measure_kills(
    slide: Path, bundle: Path, spots: Spots, mpp: float, kills: int
) -> tuple[list[Timing], dict[str, Any]]:
    """Kill a run at random moments, start it again each time, and compare its bytes in the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "spots.npz", xy=spots.level0_xy, rc=spots.grid_rc)
        arguments = [str(slide), str(bundle), str(folder / "spots.npz"), str(mpp)]
        begin = time.perf_counter()
        wanted = _finish([*arguments, str(folder / "undisturbed")])
        undisturbed_s = time.perf_counter() - begin
        moments = np.random.default_rng(0).uniform(0.1, 0.9, kills) * undisturbed_s
        begin = time.perf_counter()
        struck = sum(_kill([*arguments, str(folder / "killed")], moment) for moment in moments)
        found = _finish([*arguments, str(folder / "killed")])
        killed_s = time.perf_counter() - begin
    timing = Timing(
        f"killed {struck} times",
        "what is saved must be what would have been computed",
        [killed_s],
        0.0,
        0.0,
        {"undisturbed_s": undisturbed_s},
    )
    return [timing], {"kills": struck, "resumed_bytes_equal": found == wanted}


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _finish(arguments: list[str]) -> str:
    process = _start(arguments)
    digest, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the resumed run failed with {process.returncode}")
    return digest


def _kill(arguments: list[str], after_s: float) -> bool:
    """Whether it was still running by then."""
    process = _start(arguments)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    return False


def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("slide", "bundle", "spots", "mpp", "cache"):
        parser.add_argument(name)
    asked = parser.parse_args()
    with np.load(asked.spots) as arrays:
        spots = Spots(arrays["xy"], arrays["rc"], "file", 100.0)
    options = PredictOptions(spots=spots, mpp=float(asked.mpp), cache=Path(asked.cache))
    with load_bundle(asked.bundle).open(device="cpu") as model:
        expression = predict_slide(asked.slide, model, options).expression
    print(hashlib.sha256(expression.tobytes()).hexdigest())


if __name__ == "__main__":
    _main()
