"""Test that the tile benchmark gives the ratios that it names, on a small slide."""

from pathlib import Path

import pytest

from benchmarks import bench_tiles
from benchmarks.tiling import cases, mosaic, native
from triplex_deploy.bench.script import PEAK_MEMORY, script_result

PROMISED = {
    "grid_cpu_over_decode_limit",
    "grid_cpu_openslide_over_ours",
    "neighborhoods_wall_openslide_over_ours",
    "crop_over_memcpy",
    "bgra_over_memcpy",
    "two_threads_over_one",
}


def tiny(folder: Path, quick: bool) -> Path:
    picture = mosaic.drawn_tissue(1024, 0)
    rows = (picture[y : y + mosaic.TILE_PX] for y in range(0, 1024, mosaic.TILE_PX))
    return mosaic.write_pyramid(folder / "tiny.tif", rows, 1024, mosaic.jpeg_codec())


def test_every_promised_ratio_has_a_limit() -> None:
    assert set(bench_tiles.LIMITS) == PROMISED


def test_a_case_gives_times_and_ratios(tmp_path: Path) -> None:
    case = cases.TileCase("grid", "small", tiny, cases.grid_plan)
    ratios: dict[str, float] = {}
    limits: dict[str, object] = {}
    rows = bench_tiles.run_case(case, tiny(tmp_path, True), True, ratios, limits)
    assert {"grid_cpu_over_decode_limit", "two_threads_over_one"} <= set(ratios)
    assert all(ratio > 0 for ratio in ratios.values())
    ours = next(row for row in rows if row.name == "grid: ours, 1 thread")
    metadata = ours.work.metadata
    assert (metadata["tiles"], metadata["segments"]) == (16, 16)
    assert [found.rows for found in ours.rounds] == [16, 16, 16]
    assert metadata["whole_cpu_s"] == ours.cpu_s
    assert metadata[PEAK_MEMORY] > 0
    result = script_result(rows, ratios, limits)
    assert [case.key for case in result.cases] == [row.name for row in rows]
    assert result.ratios == ratios


def test_the_kernels_are_set_against_memcpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "REPEATS", 1)
    for ratio, bandwidth in (native.crop_over_memcpy(2), native.bgra_over_memcpy()):
        assert ratio > 0
        assert all(value > 0 for value in bandwidth.values())
