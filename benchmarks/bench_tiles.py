"""From a slide file to uint8 tiles: CPU seconds, wall seconds and memory against references.

    python benchmarks/bench_tiles.py [--quick] [--json FILE]

Slides are made on the spot, from her2st images where they lie in ../shared/data. CPU seconds count
all threads and stay meaningful on a busy machine, wall seconds do not. Ratios are of the least of
the repeats, but those over decoding alone are of medians, with the ratio of the least beside them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.tiling import cases, mosaic, native, readers, sparse
from benchmarks.tiling.measure import Timing
from triplex_deploy.bench.machine import read_machine
from triplex_deploy.slides import open_slide
from triplex_deploy.tiles import TilePlan

LIMITS = {
    "grid_cpu_over_decode_limit": "at most 1.25 + 0.05 ms per tile / decode ms per tile",
    "grid_cpu_openslide_over_ours": 4.0,
    "neighborhoods_wall_openslide_over_ours": 25.0,
    "crop_over_memcpy": 0.7,
    "bgra_over_memcpy": 0.5,
    "two_threads_over_one": 1.7,
}
PACKAGES = (
    "triplex-deploy",
    "numpy",
    "imagecodecs",
    "tifffile",
    "openslide-python",
    "openslide-bin",
)
SPARSE_PX = 60_000
MEMORY_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller slides, fewer repeats")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # what is odd about the test slides is known
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options.quick)
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    for case in result["cases"]:
        print(f"{case['name']:42} cpu {case['cpu_s']:9.4f} s  wall {case['wall_s']['min']:9.4f} s")
    print(json.dumps({"ratios": result["ratios"], "limits": result["limits"]}, indent=1))


def run(folder: Path, quick: bool) -> dict[str, Any]:
    """All cases; the result is the JSON document."""
    found: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    limits: dict[str, Any] = dict(LIMITS)
    metadata: dict[str, Any] = {}
    load_before = os.getloadavg()
    for case in cases.CASES:
        path = case.make_slide(folder, quick)
        if path is None:
            metadata[case.name] = "skipped: its data are absent"
            continue
        found += run_case(case, path, quick, ratios, limits)
    ratios["crop_over_memcpy"], crop = native.crop_over_memcpy()
    ratios["bgra_over_memcpy"], bgra = native.bgra_over_memcpy()
    bandwidth = crop | bgra | native.other_batches()
    found.append(memory_case(folder, quick))
    if not readers.has_fastslide():
        metadata["fastslide"] = "not installed"
    return {
        "schema": 1,
        "machine": read_machine().model_dump()
        | {"load_before": load_before, "load_after": os.getloadavg()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": " ".join(["python", "benchmarks/bench_tiles.py", *sys.argv[1:]]),
        "quick": quick,
        "cases": found,
        "ratios": {name: round(float(value), 3) for name, value in ratios.items()},
        "limits": limits,
        "bandwidth": {name: round(value, 2) for name, value in bandwidth.items()},
        "notes": metadata,
    }


def run_case(
    case: cases.Case, path: Path, quick: bool, ratios: dict[str, float], limits: dict[str, Any]
) -> list[dict[str, Any]]:
    """One slide by every reader, in turns; fills in the ratios that belong to the case."""
    opening = Timing()
    opening.run(lambda: open_slide(path).close())
    with open_slide(path) as slide:
        plan = case.make_plan(slide.level_sizes[0])
        grid, reader = slide.segment_grid(0), type(slide).__name__
    n_tiles, repeats = len(plan.origins_xy), 3 if quick else 5
    one, two, limit, regions = Timing(), Timing(), Timing(), Timing()
    segments = range(grid.columns * grid.rows)
    decode = readers.segment_decoder(path, segments)
    windows, share = reference_windows(case, plan, quick)
    for turn in range(repeats):
        two.run_opened(readers.ours(path, plan, 2))
        stats = one.run_opened(readers.ours(path, plan, 1))
        if decode is not None:
            limit.run(decode)
        if turn < 2:
            regions.run_opened(readers.openslide_per_region(path, windows))
    rows = [
        row(case, "ours, opening with proof", opening, n_tiles),
        row(case, "ours, 1 thread", one, n_tiles, reader=reader, segments=stats.segments_decoded),
        row(case, "ours, 2 threads", two, n_tiles, reader=reader),
        row(case, "openslide-python per region", regions, n_tiles, share=share),
    ]
    rows += other_readers(case, path, windows, share, n_tiles)
    if decode is not None:
        share_decoded = len(segments) / stats.segments_decoded
        rows.append(row(case, "imagecodecs, decoding only", limit, n_tiles, share=share_decoded))
    set_ratios(case, ratios, limits, rows, n_tiles)
    return rows


def reference_windows(case: cases.Case, plan: TilePlan, quick: bool) -> tuple[Any, float]:
    """Regions a user would read, or an even sample of them, and what share of all they are."""
    reach = (case.region_px - cases.TILE_PX) // 2
    origins = plan.origins_xy[plan.spot_tile] - reach
    most = (24 if quick else 60) if reach else (150 if quick else 800)
    chosen = np.unique(np.linspace(0, len(origins) - 1, most).astype(int))
    return readers.windows_of(origins[chosen], case.region_px), len(chosen) / len(origins)


def other_readers(
    case: cases.Case, path: Path, windows: Any, share: float, n_tiles: int
) -> list[dict[str, Any]]:
    cached = Timing()
    cached.run_opened(readers.openslide_per_region(path, windows, readers.LARGE_CACHE_BYTES))
    rows = [row(case, "openslide-python, 1 GB cache", cached, n_tiles, share=share)]
    if readers.has_fastslide() and path.suffix in (".svs", ".tif"):
        fast = Timing()
        try:
            fast.run_opened(readers.fastslide_per_region(path, windows))
        except RuntimeError as error:
            print(f"fastslide refuses {path.name}: {error}", file=sys.stderr)
        else:
            rows.append(row(case, "fastslide per region", fast, n_tiles, share=share))
    return rows


def row(
    case: cases.Case,
    reader_name: str,
    timing: Timing,
    n_tiles: int,
    share: float = 1.0,
    **metadata: Any,
) -> dict[str, Any]:
    """A line of the result; a sample is also given as what the whole would have cost."""
    whole = {
        "share_measured": round(share, 4),
        "whole_cpu_s": round(timing.cpu_s / share, 4),
        "whole_wall_s": round(timing.wall_s / share, 4),
        "cpu_ms_per_tile": round(timing.cpu_s / share / n_tiles * 1e3, 5),
    }
    name = f"{case.name}: {reader_name}"
    return (
        {"name": name, "reason": case.reason, "tiles": n_tiles}
        | timing.as_json()
        | whole
        | metadata
    )


def set_ratios(
    case: cases.Case,
    ratios: dict[str, float],
    limits: dict[str, Any],
    rows: list[dict[str, Any]],
    n_tiles: int,
) -> None:
    by_reader = {row["name"].split(": ")[1]: row for row in rows}
    one, two = by_reader["ours, 1 thread"], by_reader["ours, 2 threads"]
    theirs = by_reader["openslide-python per region"]
    ratios[f"{case.name}_cpu_openslide_over_ours"] = theirs["whole_cpu_s"] / one["whole_cpu_s"]
    ratios[f"{case.name}_wall_openslide_over_ours"] = theirs["whole_wall_s"] / two["whole_wall_s"]
    if "imagecodecs, decoding only" in by_reader:
        # Medians: the least time of decoding alone is that of a tile which never leaves the cache.
        decode_ms = by_reader["imagecodecs, decoding only"]["cpu_ms_per_tile"]
        name = f"{case.name}_cpu_over_decode_limit"
        decoding = by_reader["imagecodecs, decoding only"]
        whole_decoding = decoding["cpu_p50_s"] / decoding["share_measured"]
        ratios[name] = one["cpu_p50_s"] / whole_decoding
        ratios[f"{name}_of_minima"] = one["cpu_ms_per_tile"] / decode_ms
        if case.name == "grid":
            limits[name] = round(1.25 + 0.05 / (whole_decoding / n_tiles * 1e3), 3)
    if case.name == "grid":
        ratios["two_threads_over_one"] = one["whole_wall_s"] / two["whole_wall_s"]
        ratios["two_threads_cpu_over_one"] = two["whole_cpu_s"] / one["whole_cpu_s"]


def memory_case(folder: Path, quick: bool) -> dict[str, Any]:
    """The peak while every tile of a very large slide passes through, or of a quarter of it."""
    height = SPARSE_PX // 8 if quick else SPARSE_PX
    path = sparse.write_sparse(folder / "sparse.tif", SPARSE_PX, height, mosaic.jpeg_codec())
    plan = cases.grid_plan((SPARSE_PX, height))
    case = cases.Case("sparse_60000", "memory does not grow with the slide", None, None)  # type: ignore[arg-type]
    timing = Timing()
    stats = timing.run_opened(readers.ours(path, plan, 2))
    metadata = {"height_px": height, "buffer_mb": round(stats.buffer_bytes / 1e6, 1)}
    budget = {"budget_mb": round(MEMORY_BYTES / 1e6)}
    return row(case, "ours, 2 threads", timing, len(plan.origins_xy), **metadata, **budget)


if __name__ == "__main__":
    main()
