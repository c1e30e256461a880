"""How many lanes and tiles per call suit this machine and bundle: measured once, then remembered.

Neither changes a prediction, only how long it takes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.pipeline.ordered_pool import Stage
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session
from triplex_deploy.system import (
    PACKAGES,
    cache_folder,
    installed_versions,
    processor_name,
    usable_cores,
)
from triplex_deploy.version import __version__

DEFAULT_BATCH: Final = {"cpu": 4, "cuda": 64}
BATCHES: Final = {"cpu": (2, 4, 8), "cuda": (32, 64, 128)}
"""Tiles per call. On a CPU more gain nothing and delay Ctrl-C."""
MAX_LANES: Final = 32
GPU_LANES: Final = 2
"""One lane fetches tiles and stores results while the other's are encoded."""
BUDGET_S: Final = 0.8
"""A measurement begun later than this is not made."""
WORTH_TILES: Final = 256
"""For fewer tiles a measurement costs more than it can gain."""
BETTER_BY: Final = 1.03
"""A setting later in the list must be this much faster."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """``lanes`` threads run the encoders at once, on ``batch_size`` tiles per call."""

    lanes: int
    batch_size: int


def default_setting(
    device: Device, batch_size: int | None = None, threads: int | None = None
) -> Setting:
    """The setting without a measurement; ``threads`` are the lanes of a CPU."""
    lanes = GPU_LANES
    if device.kind == "cpu":
        lanes = min(threads or usable_cores(), MAX_LANES)
    return Setting(lanes, batch_size or DEFAULT_BATCH[device.kind])


def choose_setting(
    model: Model,
    sessions: Mapping[str, Session],
    n_tiles: int,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Setting:
    """The setting for a slide of ``n_tiles``: as asked, as remembered, or as measured now."""
    setting = default_setting(model.device, batch_size, threads)
    encoder = next(_encoders(sessions), None)
    if batch_size is not None or encoder is None:
        return setting
    path = cache_folder() / "tuning.json"
    key, facts = _key(model, setting.lanes)
    remembered = _remembered(path, key)
    if remembered is not None:
        return remembered
    if n_tiles < WORTH_TILES:
        return setting
    rates = measure_rates(encoder, candidates(model.device, setting.lanes))
    chosen = fastest(rates)
    measured = [{**asdict(tried), "tiles_per_s": rate} for tried, rate in rates.items()]
    logger.info("using %s, the fastest of %s", chosen, measured)
    _remember(path, key, {**asdict(chosen), "measured": measured, **facts})
    return chosen


def candidates(device: Device, lanes: int) -> list[Setting]:
    """What is tried, the cheapest to wait for first; half the lanes where cores may be threads."""
    tried = [Setting(lanes, size) for size in BATCHES[device.kind]]
    if device.kind == "cpu" and lanes >= 4:
        tried.append(Setting(lanes // 2, DEFAULT_BATCH["cpu"]))
    return tried


def measure_rates(
    encoder: Session, tried: Sequence[Setting], budget_s: float = BUDGET_S
) -> dict[Setting, float]:
    """Tiles per second by setting, of as many settings as the time allows."""
    begin = time.perf_counter()
    rates: dict[Setting, float] = {}
    _time_calls(encoder, Setting(tried[0].lanes, 1))  # takes memory from the system; not counted
    for setting in tried:
        if rates and time.perf_counter() - begin > budget_s:
            break
        tiles = setting.lanes * setting.batch_size
        rates[setting] = round(tiles / _time_calls(encoder, setting), 2)
    return rates


def fastest(rates: Mapping[Setting, float]) -> Setting:
    """The first setting that no later one beats clearly."""
    chosen, *later = rates
    for setting in later:
        if rates[setting] > BETTER_BY * rates[chosen]:
            chosen = setting
    return chosen


def _time_calls(encoder: Session, setting: Setting) -> float:
    """Seconds for one call of each lane, all at once."""
    tiles = np.full((setting.batch_size, TILE_PX, TILE_PX, 3), 200, np.uint8)
    calls = iter([{"tiles": tiles}] * setting.lanes)
    begin = time.perf_counter()
    with Stage("tuning", calls, encoder.run, setting.lanes) as stage:
        for _ in stage:
            pass
    return time.perf_counter() - begin


def _encoders(sessions: Mapping[str, Session]) -> Iterator[Session]:
    for session in sessions.values():
        if [tensor.name for tensor in session.spec.inputs] == ["tiles"]:
            yield session


def _key(model: Model, lanes: int) -> tuple[str, dict[str, Any]]:
    """What a measurement holds for, as a key and as facts."""
    facts = {
        "bundle": model.bundle.id,
        "device": asdict(model.device),
        "backend": model.backend,
        "processor": processor_name(),
        "cores": usable_cores(),
        "lanes": lanes,
        "versions": {"triplex-deploy": __version__, **installed_versions(PACKAGES)},
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32], facts


def _read(path: Path) -> dict[str, Any]:
    """What is remembered; nothing where the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s: ignored (%s)", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _remembered(path: Path, key: str) -> Setting | None:
    entry = _read(path).get(key)
    if not isinstance(entry, dict):
        return None
    lanes, batch_size = entry.get("lanes"), entry.get("batch_size")
    sizes = {size for sizes in BATCHES.values() for size in sizes}
    if not isinstance(lanes, int) or not 1 <= lanes <= MAX_LANES or batch_size not in sizes:
        return None
    return Setting(lanes, batch_size)


def _remember(path: Path, key: str, entry: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            text = json.dumps({**_read(path), key: entry}, indent=1)
            temporary.write_text(text, encoding="utf-8")
    except (OSError, OutputError) as error:
        logger.info("%s: not remembered (%s)", path, error)
