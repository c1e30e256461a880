"""What the prediction benchmark makes of its measurements."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_predict import cpu_shares
from benchmarks.predicting import slide_graph
from benchmarks.predicting.interrupted import Strikes, strike
from benchmarks.predicting.large import write_large_slide
from triplex_deploy import open_slide
from triplex_deploy.runtime.model import RunnableBundle

ROOT = Path(__file__).resolve().parents[2]
PREDICTS_AT_ONCE = """
import pathlib, sys, h5py
out = pathlib.Path(sys.argv[1])
out.mkdir(exist_ok=True)
with h5py.File(out / "slide.h5ad", "w") as table:
    table["X"] = [1.0, 2.0]
"""
NEVER_ENDS = "import time; time.sleep(60)"


def test_cpu_time_is_shared_out_between_encoders_slide_and_the_rest() -> None:
    cpu_s = {
        "total": 112.0,
        "tuning": 2.0,
        "sessions": 1.0,
        "spots": 2.0,
        "thumbnail": 5.0,
        "tile_encoder": 50.0,
        "target_encoder": 30.0,
        "neighbor_encoder": 8.0,
        "global_encoder": 2.0,
        "fusion_head": 4.0,
    }
    shares = cpu_shares(cpu_s, writing_s=10.0)
    assert shares["once_per_slide_cpu_share"] == pytest.approx(18 / 120)
    assert shares["non_encoder_cpu_share"] == pytest.approx(12 / 120)


def test_large_slide_is_the_grid_and_nothing_else(tmp_path: Path) -> None:
    """Then no spot has neighbors that are no spots, and each costs the same."""
    with open_slide(write_large_slide(tmp_path / "slide.tif", 5)) as slide:
        assert slide.level_sizes == ((1120, 1120), (280, 280))
        assert slide.read(0, 0, 0, 256, 256).std() > 10


def test_killed_run_is_counted_and_its_round_goes_on(tmp_path: Path) -> None:
    strikes = Strikes()
    strike([sys.executable, "-c", NEVER_ENDS], tmp_path, 0.05, {"slide.h5ad": b""}, strikes)
    assert strikes == Strikes(after_s=[0.05], slides_complete=[0], files_of_features=[0])


@pytest.mark.parametrize(("wanted", "equal"), [((1.0, 2.0), True), ((1.0, 2.5), False)])
def test_run_that_ends_before_its_moment_is_compared_and_another_begun(
    wanted: tuple[float, float], equal: bool, tmp_path: Path
) -> None:
    strikes = Strikes()
    expected = {"slide.h5ad": np.array(wanted).tobytes()}
    strike([sys.executable, "-c", PREDICTS_AT_ONCE], tmp_path, 30.0, expected, strikes)
    assert strikes == Strikes(rounds=2, equal=equal)


def test_failed_run_is_an_error_and_no_kill(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed with 3"):
        strike([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, 30.0, {}, Strikes())


def test_graph_of_a_slide_is_measured_in_a_process_of_its_own(bundle: RunnableBundle) -> None:
    graph = str(bundle.path / "global_encoder.onnx")
    command = [sys.executable, "-m", slide_graph.__name__, graph, "50", "2"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(finished.stdout)
    assert len(found["walls"]) == 2
    assert 0 < found["peak_mb"] < 50
