"""Compute how long the published way takes over a whole slide, from some of its spots."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.predicting.published import BATCH, Published
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import add_round, script_case
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.system import peak_memory_mb

ROUNDS: Final = 3


def centers_of(prediction: Prediction) -> NDArray[np.int64]:
    """Return spots (N, 2) in whole pixels, as the tile plan takes them from an unscaled slide."""
    return np.floor(prediction.level0_xy + 1e-6).astype(np.int64)


def time_published(
    name: str,
    reason: str,
    way: Published,
    prediction: Prediction,
    features: NDArray[np.float32],
    chosen: NDArray[np.int64],
) -> tuple[Case, NDArray[np.float32]]:
    """Time some spots as one batch, several times.

    Every spot costs the same, and so does every batch of a slide, so the whole is their sum.

    Args:
        name: Name of the case.
        reason: Why it is timed.
        way: The published way.
        prediction: Our prediction of the slide, which has its spots.
        features: Features (N, F) of all spots, which the published code reads from disk.
        chosen: Indices of the spots to time.

    Returns:
        The case, with seconds of the whole slide, and the expression of ``chosen``.
    """
    case = script_case(name, reason, prediction.n_spots, "spots")
    center_xy, n_spots = centers_of(prediction), prediction.n_spots
    n_batches = math.ceil(n_spots / BATCH)
    walls, per_spot, per_batch = [], [], []
    for _ in range(ROUNDS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        encoded = way.encode_spots(center_xy[chosen])
        between, between_cpu = time.perf_counter(), time.process_time()
        found = way.predict_batch(chosen, features, prediction.grid_rc, encoded)
        per_spot.append((between - begin) / len(chosen))
        per_batch.append(time.perf_counter() - between)
        walls.append(n_spots * per_spot[-1] + n_batches * per_batch[-1])
        cpu_per_spot = (between_cpu - begin_cpu) / len(chosen)
        cpu = n_spots * cpu_per_spot + n_batches * (time.process_time() - between_cpu)
        add_round(case, walls[-1], cpu, peak_memory_mb())
    best = int(np.argmin(walls))
    case.work.metadata |= {
        "timed_spots": len(chosen),
        "s_per_spot": per_spot[best],
        "s_per_batch": per_batch[best],
    }
    return case, found
