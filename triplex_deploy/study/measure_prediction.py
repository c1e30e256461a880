"""Predict one section in a new process, and measure its speed and peak memory.

    python -m triplex_deploy.study.measure_prediction REQUEST.json

The process loads no torch, so that its peak memory is that of a deployed model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import TriplexError, one_line
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.spots import Spots

REPEATS: Final = 2
"""Number of predictions; the speed is that of the fastest."""


@dataclass(frozen=True)
class PredictionRequest:
    """What to predict, with which bundle, and where the prediction goes."""

    bundle: str
    """Folder of the bundle."""
    slide: str
    """File of the slide."""
    spots: str
    """An .npz file of ``level0_xy`` (N, 2) and ``grid_rc`` (N, 2)."""
    mpp: float
    """Microns per pixel of the slide."""
    out: str
    """An .npz file to write ``expression`` (N, G) and ``genes`` (G,) to."""


def measure_prediction(request: PredictionRequest, request_path: Path) -> dict[str, Any]:
    """Predict a section in a new process, and return what the prediction costs.

    Args:
        request: What to predict.
        request_path: File to write the request to, for the process.

    Returns:
        Spots, spots per second of the faster of two predictions, peak memory in MB, and device.

    Raises:
        TriplexError: If the process fails, with its last line of output.
    """
    with atomic_path(request_path) as path:
        path.write_text(json.dumps(vars(request)), encoding="utf-8")
    command = [sys.executable, "-m", "triplex_deploy.study.measure_prediction", str(request_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"status {finished.returncode}"]
        raise TriplexError(f"{request.slide}: its prediction failed: {lines[-1]}")
    cost: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return cost


def run_request(request: PredictionRequest) -> dict[str, Any]:
    """Predict twice, write the expression, and return what the prediction costs."""
    with np.load(request.spots) as arrays:
        spots = _spots(arrays["level0_xy"], arrays["grid_rc"])
    options = PredictOptions(spots=spots, mpp=request.mpp)
    with load_bundle(request.bundle).open(device="cpu") as model:
        runs = [predict_slide(request.slide, model, options) for _ in range(REPEATS)]
    with atomic_path(request.out) as path, path.open("wb") as file:
        np.savez(file, expression=runs[0].expression, genes=np.array(runs[0].genes))
    return {
        "spots": runs[0].n_spots,
        "spots_per_s": max(run.run["spots_per_s"] for run in runs),
        "peak_memory_mb": runs[-1].run["peak_memory_mb"],
        "device": runs[0].run["device"],
    }


def _spots(level0_xy: NDArray[np.float64], grid_rc: NDArray[np.int64]) -> Spots:
    return Spots(level0_xy, grid_rc, layout="file", spot_diameter_px=1.0)


def _main(path: str) -> int:
    try:
        request = PredictionRequest(**json.loads(Path(path).read_text(encoding="utf-8")))
        sys.stdout.write(json.dumps(run_request(request)) + "\n")
    except Exception as error:  # noqa: BLE001 - the process that waits reads it as one line
        sys.stderr.write(one_line(error) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
