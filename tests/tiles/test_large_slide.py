"""Memory for a slide of 60,000 x 60,000 pixels, which is nearly empty on disk."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUDGET_MB = 300
SCRIPT = """
import resource, sys
import imagecodecs, numpy as np, openslide, tifffile  # what a run needs anyway
from pathlib import Path
from benchmarks.tiling import cases, mosaic, readers, sparse
from triplex_deploy.slides import open_slide
from triplex_deploy.tiles import SlideView, stream_tiles
from triplex_deploy.tiles.stream import StreamStats

folder, height, budget_mb = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
path = sparse.write_sparse(folder / "sparse.tif", 60_000, height, mosaic.jpeg_codec())
plan = cases.grid_plan((60_000, height))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stats, count = StreamStats(), 0
with open_slide(path) as slide:
    view = SlideView.open(slide, 0.5, 0.5)
    for batch in stream_tiles(view, plan, 64, memory_bytes=budget_mb << 20, stats=stats):
        count += len(batch.tile_index)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert count == len(plan.origins_xy)
print((after - before) / 1024, stats.segments_decoded, stats.buffer_bytes)
"""


def run(folder: Path, height: int) -> tuple[float, int, int]:
    """Return the growth of the process in MB, the number of decoded tiles, and their bytes."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(height), str(BUDGET_MB)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    growth, decoded, buffers = output.split()
    return float(growth), int(decoded), int(buffers)


@pytest.mark.slow
def test_memory_stays_under_the_budget_whatever_the_height(tmp_path: Path) -> None:
    growth, decoded, buffers = run(tmp_path, 60_000)
    assert growth < BUDGET_MB
    assert decoded == 235 * 234  # each once; the grid ends before the last row
    lower, _, lower_buffers = run(tmp_path, 10_000)
    assert buffers == lower_buffers
    assert growth < lower + 40  # the plan itself grows with the number of tiles
