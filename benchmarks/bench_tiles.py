"""Compare reading tiles of slides with other ways to read them: CPU seconds, wall seconds, memory.

    python benchmarks/bench_tiles.py [--quick] [--json FILE]

Slides are written by the script, from her2st images if they are in ../shared/data. CPU seconds
count all threads and are meaningful on a busy machine too; wall seconds are not. Ratios are of the
least of the repeats. Ratios over decoding alone are of medians, with the ratio of the least too.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.tiling import cases, mosaic, native, readers, sparse
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.result import BenchResult
from triplex_deploy.bench.script import report, script_case, script_result, set_rows, time_call
from triplex_deploy.slides import open_slide
from triplex_deploy.tiles import TilePlan

LIMITS: Final = {
    "grid_cpu_over_decode_limit": "at most 1.25 + 0.05 ms per tile / decode ms per tile",
    "grid_cpu_openslide_over_ours": 4.0,
    "neighborhoods_wall_openslide_over_ours": 25.0,
    "crop_over_memcpy": 0.7,
    "bgra_over_memcpy": 0.5,
    "two_threads_over_one": 1.7,
}
SPARSE_PX: Final = 60_000
MEMORY_BYTES: Final = 1 << 30
ONE_THREAD: Final = "ours, 1 thread"
TWO_THREADS: Final = "ours, 2 threads"
PER_REGION: Final = "openslide-python per region"
DECODING: Final = "imagecodecs, decoding only"

Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller slides, fewer repeats")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the warnings about the test slides are known
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options.quick)
    report(result, options.json)


def run(folder: Path, quick: bool) -> BenchResult:
    """Measure all cases."""
    found: list[Case] = []
    ratios: dict[str, float] = {}
    absent: dict[str, str] = {}
    limits: dict[str, Any] = dict(LIMITS)
    limits["load_before"] = list(os.getloadavg())
    for case in cases.CASES:
        path = case.make_slide(folder, quick)
        if path is None:
            absent[f"{case.name}_cpu_openslide_over_ours"] = "its data are absent"
            continue
        found += run_case(case, path, quick, ratios, limits)
    ratios["crop_over_memcpy"], crop = native.crop_over_memcpy()
    ratios["bgra_over_memcpy"], bgra = native.bgra_over_memcpy()
    limits["bandwidth"] = crop | bgra | native.other_batches()
    found.append(memory_case(folder, quick))
    limits |= {"quick": quick, "load_after": list(os.getloadavg())}
    limits["fastslide"] = "installed" if readers.has_fastslide() else "not installed"
    return script_result(found, ratios, limits, absent)


def run_case(
    case: cases.TileCase, path: Path, quick: bool, ratios: dict[str, float], limits: dict[str, Any]
) -> list[Case]:
    """Read a slide by every reader in turns, and add the ratios of the case to ``ratios``."""
    opening = _timed(case, "ours, opening with proof")
    time_call(opening, lambda: open_slide(path).close())
    with open_slide(path) as slide:
        plan = case.make_plan(slide.level_sizes[0])
        grid, reader = slide.segment_grid(0), type(slide).__name__
    n_tiles, repeats = len(plan.origins_xy), 3 if quick else 5
    one, two = _timed(case, ONE_THREAD), _timed(case, TWO_THREADS)
    limit, regions = _timed(case, DECODING), _timed(case, PER_REGION)
    segments = range(grid.columns * grid.rows)
    decode = readers.segment_decoder(path, segments)
    windows, share = reference_windows(case, plan, quick)
    for turn in range(repeats):
        time_opened(two, readers.ours(path, plan, 2))
        stats = time_opened(one, readers.ours(path, plan, 1))
        if decode is not None:
            time_call(limit, decode)
        if turn < 2:
            time_opened(regions, readers.openslide_per_region(path, windows))
    finished = [
        finish(opening, n_tiles),
        finish(one, n_tiles, reader=reader, segments=stats.segments_decoded),
        finish(two, n_tiles, reader=reader),
        finish(regions, n_tiles, share),
        *other_readers(case, path, windows, share, n_tiles),
    ]
    if decode is not None:
        finished.append(finish(limit, n_tiles, len(segments) / stats.segments_decoded))
    set_ratios(case, ratios, limits, finished, n_tiles)
    return finished


def time_opened(case: Case, opening: AbstractContextManager[Callable[[], Result]]) -> Result:
    """Time a call of what ``opening`` opens; opening and closing do not count."""
    with opening as call:
        return time_call(case, call)


def reference_windows(case: cases.TileCase, plan: TilePlan, quick: bool) -> tuple[Any, float]:
    """Return regions that a user would read, or an even sample, and the part of all they are."""
    reach = (case.region_px - cases.TILE_PX) // 2
    origins = plan.origins_xy[plan.spot_tile] - reach
    most = (24 if quick else 60) if reach else (150 if quick else 800)
    chosen = np.unique(np.linspace(0, len(origins) - 1, most).astype(int))
    return readers.windows_of(origins[chosen], case.region_px), len(chosen) / len(origins)


def other_readers(
    case: cases.TileCase, path: Path, windows: Any, share: float, n_tiles: int
) -> list[Case]:
    """Read the regions with a large cache, and by fastslide if it is installed."""
    cached = _timed(case, "openslide-python, 1 GB cache")
    time_opened(cached, readers.openslide_per_region(path, windows, readers.LARGE_CACHE_BYTES))
    finished = [finish(cached, n_tiles, share)]
    if readers.has_fastslide() and path.suffix in (".svs", ".tif"):
        fast = _timed(case, "fastslide per region")
        try:
            time_opened(fast, readers.fastslide_per_region(path, windows))
        except RuntimeError as error:
            print(f"fastslide refuses {path.name}: {error}", file=sys.stderr)
        else:
            finished.append(finish(fast, n_tiles, share))
    return finished


def _timed(case: cases.TileCase, reader: str) -> Case:
    return script_case(f"{case.name}: {reader}", case.reason, unit="tiles")


def finish(case: Case, n_tiles: int, share: float = 1.0, **metadata: Any) -> Case:
    """Add the metadata of a measured case, and the cost of the whole slide if it was a sample."""
    set_rows(case, round(n_tiles * share) or 1)
    case.work.metadata |= {
        "tiles": n_tiles,
        "share_measured": share,
        "whole_cpu_s": case.cpu_s / share,
        "whole_wall_s": case.best_s / share,
        "cpu_ms_per_tile": case.cpu_s / share / n_tiles * 1e3,
        **metadata,
    }
    return case


def set_ratios(
    case: cases.TileCase,
    ratios: dict[str, float],
    limits: dict[str, Any],
    finished: Sequence[Case],
    n_tiles: int,
) -> None:
    """Add the ratios of a slide to ``ratios``, and the limit that depends on its decoding."""
    of_reader = {found.name.split(": ")[1]: found for found in finished}
    one, two, theirs = (of_reader[name] for name in (ONE_THREAD, TWO_THREADS, PER_REGION))
    ratios[f"{case.name}_cpu_openslide_over_ours"] = _whole(theirs, "cpu") / _whole(one, "cpu")
    ratios[f"{case.name}_wall_openslide_over_ours"] = _whole(theirs, "wall") / _whole(two, "wall")
    if DECODING in of_reader:
        # Medians: the least time of decoding alone is that of a tile which never leaves the cache.
        decoding = of_reader[DECODING]
        name = f"{case.name}_cpu_over_decode_limit"
        whole_s = _median_cpu_s(decoding) / decoding.work.metadata["share_measured"]
        ratios[name] = _median_cpu_s(one) / whole_s
        ratios[f"{name}_of_minima"] = _whole(one, "cpu") / _whole(decoding, "cpu")
        if case.name == "grid":
            limits[name] = round(1.25 + 0.05 / (whole_s / n_tiles * 1e3), 3)
    if case.name == "grid":
        ratios["two_threads_over_one"] = _whole(one, "wall") / _whole(two, "wall")
        ratios["two_threads_cpu_over_one"] = _whole(two, "cpu") / _whole(one, "cpu")


def _whole(case: Case, clock: str) -> float:
    return float(case.work.metadata[f"whole_{clock}_s"])


def _median_cpu_s(case: Case) -> float:
    return statistics.median(found.cpu_s for found in case.rounds)


def memory_case(folder: Path, quick: bool) -> Case:
    """Read every tile of a very large slide, or of an eighth of it, for the peak memory."""
    height = SPARSE_PX // 8 if quick else SPARSE_PX
    path = sparse.write_sparse(folder / "sparse.tif", SPARSE_PX, height, mosaic.jpeg_codec())
    plan = cases.grid_plan((SPARSE_PX, height))
    case = script_case(
        f"sparse_60000: {TWO_THREADS}", "memory does not grow with the slide", unit="tiles"
    )
    stats = time_opened(case, readers.ours(path, plan, 2))
    return finish(
        case,
        len(plan.origins_xy),
        height_px=height,
        buffer_mb=round(stats.buffer_bytes / 1e6, 1),
        budget_mb=round(MEMORY_BYTES / 1e6),
    )


if __name__ == "__main__":
    main()
