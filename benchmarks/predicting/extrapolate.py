"""How long the published way takes over a whole slide, from some of its spots."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.predicting.published import BATCH, Published
from benchmarks.record import Timing
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.system import peak_memory_mb

ROUNDS: Final = 3


def centers_of(prediction: Prediction) -> NDArray[np.int64]:
    """Spots (N, 2) in whole pixels, as the tile plan takes them where it does not scale."""
    return np.floor(prediction.level0_xy + 1e-6).astype(np.int64)


def time_published(
    name: str,
    reason: str,
    way: Published,
    prediction: Prediction,
    features: NDArray[np.float32],
    chosen: NDArray[np.int64],
) -> tuple[Timing, NDArray[np.float32]]:
    """Time ``chosen`` spots as one batch, several times; also returns their expression.

    Every spot costs the same and every batch of a slide too, so the whole is their sum. The
    ``features`` (N, 512) of all spots lie on disk in the published code. Ratios are of its best
    round.
    """
    center_xy, n_spots = centers_of(prediction), prediction.n_spots
    n_batches = math.ceil(n_spots / BATCH)
    walls, cpus, per_spot, per_batch = [], [], [], []
    for _ in range(ROUNDS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        encoded = way.encode_spots(center_xy[chosen])
        between, between_cpu = time.perf_counter(), time.process_time()
        found = way.predict_batch(chosen, features, prediction.grid_rc, encoded)
        per_spot.append((between - begin) / len(chosen))
        per_batch.append(time.perf_counter() - between)
        walls.append(n_spots * per_spot[-1] + n_batches * per_batch[-1])
        cpu_per_spot = (between_cpu - begin_cpu) / len(chosen)
        cpus.append(n_spots * cpu_per_spot + n_batches * (time.process_time() - between_cpu))
    best = int(np.argmin(walls))
    metadata = {
        "timed_spots": len(chosen),
        "s_per_spot": per_spot[best],
        "s_per_batch": per_batch[best],
    }
    return Timing(name, reason, walls, min(cpus), peak_memory_mb(), metadata), found
