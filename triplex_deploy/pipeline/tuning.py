"""Choose the number of workers and of tiles per call for a machine and a bundle.

The choice is measured once and kept in the user's cache folder. It does not change a prediction,
only the time it takes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.contract import TILE_PX
from triplex_deploy.files.measurements import (
    measurement_key,
    read_measurement,
    store_measurement,
)
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.runtime.cpu_choice import cpu_conditions
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session
from triplex_deploy.system import (
    cache_folder,
    usable_cores,
)

DEFAULT_BATCH: Final = {"cpu": 4, "cuda": 64}
BATCHES: Final = {"cpu": (2, 4, 8), "cuda": (32, 64, 128)}
"""Tiles per call that are tried. On a CPU larger calls gain nothing and delay Ctrl-C."""
MAX_WORKERS: Final = 32
"""Most threads that encode on a CPU."""
GPU_WORKERS: Final = 2
"""One worker fetches tiles and stores results while the tiles of the other are encoded."""
TIMED_CALLS: Final = {"cpu": 1, "cuda": 5}
"""Timed calls of each worker for a setting. On a GPU an untimed call of the same size comes first:
it chooses kernels and gets memory, which takes far longer than computing."""
BUDGET_S: Final = 0.8
"""Seconds after which no further setting is measured; a GPU's untimed calls do not count."""
WORTH_TILES: Final = 256
"""Fewest tiles for which measuring is worth its time."""
BETTER_BY: Final = 1.03
"""How much faster a later setting of the list must be to replace an earlier one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """How a prediction calls the encoders."""

    workers: int
    """Threads that call the encoders at once."""
    batch_size: int
    """Tiles per call."""


def default_setting(
    device: Device, batch_size: int | None = None, threads: int | None = None
) -> Setting:
    """Return the setting without measuring; ``threads`` is the number of workers on a CPU."""
    workers = GPU_WORKERS
    if device.kind == "cpu":
        workers = min(threads or usable_cores(), MAX_WORKERS)
    return Setting(workers, batch_size or DEFAULT_BATCH[device.kind])


def choose_setting(
    model: Model,
    sessions: Mapping[str, Session],
    n_tiles: int,
    batch_size: int | None = None,
    threads: int | None = None,
    before_measuring: Callable[[], object] = lambda: None,
) -> Setting:
    """Return the setting for a slide of ``n_tiles``: as asked, as stored, or as measured now.

    ``before_measuring`` is called before a measurement; it may wait for work that would disturb it.
    """
    setting = default_setting(model.device, batch_size, threads)
    encoder = next(_encoders(sessions), None)
    if batch_size is not None or encoder is None:
        return setting
    path = cache_folder() / "tuning.json"
    key, conditions = _key(model, setting.workers)
    stored = _stored(path, key)
    if stored is not None:
        return stored
    if n_tiles < WORTH_TILES:
        return setting
    before_measuring()
    tried = candidates(model.device, setting.workers)
    rates = measure_rates(encoder, tried, timed_calls=TIMED_CALLS[model.device.kind])
    chosen = fastest(rates)
    measured = [{**asdict(tried), "tiles_per_s": rate} for tried, rate in rates.items()]
    logger.info("using %s, the fastest of %s", chosen, measured)
    store_measurement(path, key, {**asdict(chosen), "measured": measured, **conditions})
    return chosen


def measured_tiles_per_s(model: Model, setting: Setting) -> float | None:
    """Return the rate of the first encoder that was measured here for a setting; None if unknown.

    It is known once a slide of at least ``WORTH_TILES`` was predicted with this bundle.
    """
    for workers in (setting.workers, default_setting(model.device).workers):
        key, _ = _key(model, workers)
        entry = read_measurement(cache_folder() / "tuning.json", key)
        measured = entry.get("measured") if entry is not None else None
        for one in measured if isinstance(measured, list) else ():
            rate = one.get("tiles_per_s") if isinstance(one, dict) else None
            same = isinstance(one, dict) and one.get("batch_size") == setting.batch_size
            if same and isinstance(rate, int | float) and rate > 0:
                return float(rate)
    return None


def candidates(device: Device, workers: int) -> list[Setting]:
    """Return the settings to try, quickest first.

    On a CPU of four or more cores that includes half the workers, since cores may be hyper-threads.
    """
    tried = [Setting(workers, size) for size in BATCHES[device.kind]]
    if device.kind == "cpu" and workers >= 4:
        tried.append(Setting(workers // 2, DEFAULT_BATCH["cpu"]))
    return tried


def measure_rates(
    encoder: Session,
    tried: Sequence[Setting],
    budget_s: float = BUDGET_S,
    timed_calls: int = TIMED_CALLS["cpu"],
) -> dict[Setting, float]:
    """Return tiles per second by setting, for as many settings as ``budget_s`` allows.

    Args:
        encoder: The session to call.
        tried: The settings, in the order to try them.
        budget_s: Seconds after which no further setting is measured.
        timed_calls: Calls of each worker that are timed. With several, each setting begins with a
            call that is not timed; with one, a single call of one tile precedes them all.
    """
    rates: dict[Setting, float] = {}
    spent_s = 0.0
    if timed_calls == 1:
        spent_s = _time_calls(encoder, Setting(tried[0].workers, 1))  # warms up memory
    for setting in tried:
        if rates and spent_s > budget_s:
            break
        if timed_calls > 1:
            _time_calls(encoder, setting)
        seconds = _time_calls(encoder, setting, timed_calls)
        spent_s += seconds
        tiles = setting.workers * setting.batch_size * timed_calls
        rates[setting] = round(tiles / seconds, 2)
    return rates


def fastest(rates: Mapping[Setting, float]) -> Setting:
    """Return the first setting that no later one beats by the factor ``BETTER_BY``."""
    chosen, *later = rates
    for setting in later:
        if rates[setting] > BETTER_BY * rates[chosen]:
            chosen = setting
    return chosen


def _time_calls(encoder: Session, setting: Setting, calls_each: int = 1) -> float:
    """Return the seconds of ``calls_each`` calls per worker, all workers at once."""
    tiles = np.full((setting.batch_size, TILE_PX, TILE_PX, 3), 200, np.uint8)
    calls = iter([{"tiles": tiles}] * (setting.workers * calls_each))
    begin = time.perf_counter()
    with OrderedThreadPool("tuning", calls, encoder.run, setting.workers) as pool:
        for _ in pool:
            pass
    return time.perf_counter() - begin


def _encoders(sessions: Mapping[str, Session]) -> Iterator[Session]:
    for session in sessions.values():
        if session.spec.kind == "per tile":
            yield session


def _key(model: Model, workers: int) -> tuple[str, dict[str, Any]]:
    """Return what a measurement depends on: as a key, and in words."""
    conditions = {
        "bundle": model.bundle.id,
        "device": asdict(model.device),
        "backend": model.backend,
        "precision": model.precision,
        "cores": usable_cores(),
        "workers": workers,
        **cpu_conditions(),
    }
    return measurement_key(conditions), conditions


def _stored(path: Path, key: str) -> Setting | None:
    entry = read_measurement(path, key)
    if entry is None:
        return None
    workers, batch_size = entry.get("workers"), entry.get("batch_size")
    sizes = {size for sizes in BATCHES.values() for size in sizes}
    if not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS or batch_size not in sizes:
        return None
    return Setting(workers, batch_size)
