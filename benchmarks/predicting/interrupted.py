"""Runs that are killed and started again: what they end with, and what a second model costs."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.record import Timing
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots

ROOT = Path(__file__).resolve().parents[2]
SLIDES = 4
SHARE_OF_WORK = 0.3
"""The most that a run does before it is killed; a slide is a quarter of the work."""


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
            metadata = {key: run[key] for key in ("tiles_encoded", "tiles_from_cache", "timings_s")}
            reason = "models on one frozen encoder need its features once"
            timings.append(Timing(name, reason, [wall], cpu, run["peak_memory_mb"], metadata))
    first, second = timings
    return timings, {"second_model_over_first": first.best_s / second.best_s}


def measure_kills(
    bundle: Path, folder: Path, mpp: float, kills: int, side_px: int
) -> tuple[list[Timing], dict[str, Any]]:
    """Kill `predict` over four slides at random moments, starting it again until ``kills`` struck.

    Each run goes on with what the last one left. One that ends before its moment is compared, and
    its results are thrown away. In the end the expression of every slide must have the bytes of a
    run that nobody disturbed.
    """
    slides = [folder / f"killed {seed}.tif" for seed in range(SLIDES)]
    for seed, slide in enumerate(slides):
        synthesize_slide(slide, side_px, side_px, mpp, seed)
    command = _command(slides, bundle)
    undisturbed_s = _finish(command, folder / "undisturbed")
    starting_s = _finish(command, folder / "undisturbed")  # everything is there already
    wanted = _expression_bytes(folder / "undisturbed")
    most_s = SHARE_OF_WORK * (undisturbed_s - starting_s)
    rng = np.random.default_rng(0)
    begin = time.perf_counter()
    strikes = Strikes()
    while len(strikes.after_s) < kills:
        strike(command, folder, starting_s + float(rng.uniform(0, most_s)), wanted, strikes)
    _finish(command, strikes.out(folder))
    strikes.equal &= _expression_bytes(strikes.out(folder)) == wanted
    timing = Timing(
        f"{SLIDES} slides, killed {kills} times",
        "what is saved must be what would have been computed",
        [time.perf_counter() - begin],
        0.0,
        0.0,
        {"undisturbed_s": undisturbed_s, **dataclasses.asdict(strikes)},
    )
    return [timing], {"kills": len(strikes.after_s), "resumed_bytes_equal": strikes.equal}


@dataclass
class Strikes:
    """Kills so far: after how many seconds of its run each came, and what there was by then."""

    after_s: list[float] = field(default_factory=list)
    slides_complete: list[int] = field(default_factory=list)
    files_of_features: list[int] = field(default_factory=list)
    rounds: int = 1
    equal: bool = True

    def out(self, folder: Path) -> Path:
        return folder / f"round {self.rounds}"


def strike(
    command: list[str], folder: Path, after_s: float, wanted: dict[str, bytes], strikes: Strikes
) -> None:
    """Go on with a round and kill it; one that is through is compared, and another begun."""
    out = strikes.out(folder)
    killed = _kill(command, out, after_s)
    complete = len(list(out.glob("*.h5ad")))
    if killed and complete < len(wanted):
        strikes.after_s.append(after_s)
        strikes.slides_complete.append(complete)
        strikes.files_of_features.append(len(list(out.glob(".*/features/*/*.npz"))))
    else:
        strikes.equal &= _expression_bytes(out) == wanted
        strikes.rounds += 1


def _command(slides: list[Path], bundle: Path) -> list[str]:
    """All but the output folder; a batch size, since measuring one is done once per machine."""
    predict = [sys.executable, "-m", "triplex_deploy.cli", "predict", "--no-report"]
    options = ["--device", "cpu", "--batch-size", "4", "--out"]
    return [*predict, *map(str, slides), "--bundle", str(bundle), *options]


def _start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )


def _finish(command: list[str], out: Path) -> float:
    """Seconds of a run to its end."""
    begin = time.perf_counter()
    process = _start(command, out)
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"{out.name}: the run failed with {process.returncode}")
    return time.perf_counter() - begin


def _kill(command: list[str], out: Path, after_s: float) -> bool:
    """Whether the run was under way until it was killed."""
    process = _start(command, out)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{out.name}: the resumed run failed with {process.returncode}")
    return process.returncode == -signal.SIGKILL


def _expression_bytes(out: Path) -> dict[str, bytes]:
    """The bytes of ``X`` of every slide's final file."""
    found = {}
    for path in sorted(out.glob("*.h5ad")):
        with h5py.File(path) as table:
            found[path.name] = np.asarray(table["X"]).tobytes()
    return found
