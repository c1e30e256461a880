"""Kill runs and start them again, and measure what a second model costs with a cache."""

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

from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import add_round, script_case, time_call
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots

ROOT = Path(__file__).resolve().parents[2]
SLIDES = 4
SHARE_OF_WORK = 0.3
"""Part of the work that a run does at most before it is killed; a slide is a quarter of it."""


def measure_cache(
    slide: Path, bundle: Path, spots: Spots, mpp: float
) -> tuple[list[Case], dict[str, float]]:
    """Predict the same spots twice with one cache, as two models on a frozen encoder would."""
    with tempfile.TemporaryDirectory() as folder, load_bundle(bundle).open(device="cpu") as model:
        options = PredictOptions(spots=spots, mpp=mpp, cache=Path(folder))
        cases = []
        for name in ("first model, empty cache", "second model, same frozen encoder"):
            reason = "models on the same frozen encoder need its features only once"
            case = script_case(name, reason, len(spots.level0_xy), "spots")
            run = time_call(case, lambda: predict_slide(slide, model, options)).run
            recorded = ("tiles_encoded", "tiles_from_cache", "timings_s")
            case.work.metadata |= {key: run[key] for key in recorded}
            cases.append(case)
    first, second = cases
    return cases, {"second_model_over_first": first.best_s / second.best_s}


def measure_kills(
    bundle: Path, folder: Path, mpp: float, kills: int, side_px: int
) -> tuple[list[Case], dict[str, Any]]:
    """Start ``predict`` over four slides, and kill it at random moments until ``kills`` are done.

    Each run continues what the last run left. If a run ends before it would be killed, its results
    are compared and deleted. In the end the expression of every slide must have the bytes of a run
    without interruption.
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
    case = script_case(
        f"{SLIDES} slides, killed {kills} times",
        "a resumed run must give the bytes of a run without interruption",
    )
    add_round(case, time.perf_counter() - begin, 0.0)
    case.work.metadata |= {"undisturbed_s": undisturbed_s, **dataclasses.asdict(strikes)}
    return [case], {"kills": len(strikes.after_s), "resumed_bytes_equal": strikes.equal}


@dataclass
class Strikes:
    """The kills so far, and what each run had written by then."""

    after_s: list[float] = field(default_factory=list)
    """Seconds from the start of the run."""
    slides_complete: list[int] = field(default_factory=list)
    files_of_features: list[int] = field(default_factory=list)
    rounds: int = 1
    equal: bool = True

    def out(self, folder: Path) -> Path:
        return folder / f"round {self.rounds}"


def strike(
    command: list[str], folder: Path, after_s: float, wanted: dict[str, bytes], strikes: Strikes
) -> None:
    """Continue a round and kill it; if it ends first, compare it, and begin another round."""
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
    """Return the command without its output folder; with a batch size, so that none is measured."""
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
    """Return the seconds of a run to its end."""
    begin = time.perf_counter()
    process = _start(command, out)
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"{out.name}: the run failed with {process.returncode}")
    return time.perf_counter() - begin


def _kill(command: list[str], out: Path, after_s: float) -> bool:
    """Return whether the run was killed, and had not ended before."""
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
    """Return the bytes of ``X`` of every slide's final file."""
    found = {}
    for path in sorted(out.glob("*.h5ad")):
        with h5py.File(path) as table:
            found[path.name] = np.asarray(table["X"]).tobytes()
    return found
