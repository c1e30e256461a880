"""Predict one section in a process of its own, whose peak memory is then the prediction's.

    python -m triplex_deploy.study.predict_apart REQUEST.json

No torch is loaded: this is what deployment costs.
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


@dataclass(frozen=True)
class Request:
    """What to predict: ``spots`` is an .npz of ``level0_xy`` and ``grid_rc``."""

    bundle: str
    slide: str
    spots: str
    mpp: float
    out: str
    """An .npz for ``expression`` (N, G) and ``facts``."""


def predict_apart(request: Request, request_path: Path) -> dict[str, Any]:
    """Facts of the faster of two predictions, and the process's peak memory.

    Raises ``TriplexError`` with what the process said if it failed.
    """
    with atomic_path(request_path) as path:
        path.write_text(json.dumps(vars(request)), encoding="utf-8")
    command = [sys.executable, "-m", "triplex_deploy.study.predict_apart", str(request_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"status {finished.returncode}"]
        raise TriplexError(f"{request.slide}: its prediction failed: {lines[-1]}")
    facts: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return facts


def run_request(request: Request) -> dict[str, Any]:
    """Predict twice, keep the expression, and return what it cost."""
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
        request = Request(**json.loads(Path(path).read_text(encoding="utf-8")))
        sys.stdout.write(json.dumps(run_request(request)) + "\n")
    except Exception as error:  # noqa: BLE001 - told to the process that waits, in one line
        sys.stderr.write(one_line(error) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
