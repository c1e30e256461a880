"""Test what the prediction benchmark makes of its measurements."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_predict
from benchmarks.bench_predict import DIFFERENCE, Measured, Scene, Way, add_scene, cpu_shares
from benchmarks.predicting import encoding, models, slide_graph
from benchmarks.predicting.encoding import measure_encoder, measure_prepare, torch_encoder
from benchmarks.predicting.interrupted import Strikes, strike
from benchmarks.predicting.large import write_large_slide
from benchmarks.predicting.models import (
    SMALL,
    Bundles,
    bundles_for,
    few_parity_cases,
    int8_weight_bits,
    make_checkpoint,
)
from benchmarks.predicting.published import normalized
from triplex_deploy import open_slide
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import add_round, script_case
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import BackendError, ParityError
from triplex_deploy.exporters import parity
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.models import Checkpoint
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.gates import GATES
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.spots import Spots
from triplex_deploy.training.features import FEATURES

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
    config = json.dumps(bundle.config.to_dict())
    command = [sys.executable, "-m", slide_graph.__name__, graph, config, "50", "2"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(finished.stdout)
    assert len(found["walls"]) == 2
    assert 0 < found["peak_mb"] < 50


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A small TRIPLEX with random weights."""
    return make_checkpoint(SMALL, 0.5)


def test_int8_that_misses_its_gate_has_no_bundle_and_the_figures(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = []

    def export(path: Path, out: Path, options: ExportOptions | None = None) -> None:
        precision = (options or ExportOptions()).precision
        exported.append(precision)
        if precision == "int8":
            raise ParityError("tile_encoder: cosine 0.95; export fp32")
        out.mkdir()

    tiles = np.zeros((4, 224, 224, 3), np.uint8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(models, "sample_tiles", lambda *_: tiles)
    monkeypatch.setattr(models, "export_bundle", export)
    for _ in range(2):  # the second time nothing is exported
        found = bundles_for(checkpoint, tmp_path / "slide.tif", quick=True)
        assert list(found.paths) == ["fp32"]
        assert found.paths["fp32"].is_dir()
        assert found.absent == {"int8": "tile_encoder: cosine 0.95; export fp32"}
    assert exported == ["fp32", "int8"]


def test_few_parity_cases_change_sizes_and_no_gate() -> None:
    sizes, side, gates = dict(parity.SIZES), parity.GRID_SIDE, dict(GATES)
    with few_parity_cases():
        assert set(parity.SIZES.values()) == {(1, 2, 3)}
        assert gates == GATES
    assert (sizes, side) == (parity.SIZES, parity.GRID_SIDE)


@pytest.mark.parametrize(
    ("flags", "bits"), [("avx2 avx512_vnni", 8), ("avx2 avx_vnni", 8), ("avx2", 7)]
)
def test_int8_has_fewer_bits_where_sums_would_overflow(
    flags: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "processor_flags", lambda: frozenset(flags.split()))
    assert int8_weight_bits() == bits


def test_scene_gives_a_ratio_of_each_way_or_the_reason(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": 4.0, "openvino_int8": 0.5}

    def time_ours(scene: Scene, way: Way, bundle: Path) -> tuple[Case, object]:
        if way.precision == "bf16":
            raise BackendError("precision bf16: this CPU does not multiply it in hardware")
        assert bundle == tmp_path / way.bundle
        case = script_case(f"{scene.name}, ours {way.name}", "", 10, "spots")
        add_round(case, seconds[way.name], 1.0)
        case.work.metadata |= {"tiles_without_sharing": 250, "tiles_encoded": 25}
        if way.name == "fp32":
            case.work.metadata |= dict.fromkeys(bench_predict.SHARES, 0.25)
        return case, object()

    def compare_published(scene: Scene, *_: object) -> Case:
        case = script_case(f"{scene.name}, published way", "", 10, "spots")
        add_round(case, 60.0, 60.0)
        case.work.metadata[DIFFERENCE] = 1e-6
        return case

    monkeypatch.setattr(bench_predict, "time_ours", time_ours)
    monkeypatch.setattr(bench_predict, "compare_published", compare_published)
    fp32, slide = tmp_path / "fp32", tmp_path / "slide.tif"
    missed = Bundles({"fp32": fp32}, {"int8": "cosine 0.95"})
    spots = Measured()
    add_scene(spots, Scene("spots", "", slide, PredictOptions()), checkpoint, missed, 2)
    assert spots.ratios["spots_fp32_over_reference"] == 15
    assert spots.absent == {
        "spots_int8_over_reference": "cosine 0.95",
        "spots_bf16_over_reference": "precision bf16: this CPU does not multiply it in hardware",
    }
    assert spots.ratios["non_encoder_cpu_share"] == 0.25
    assert spots.limits["frozen_passes_saved"] == 10
    grid = Measured()
    seconds["int8"] = 1.0
    passed = Bundles({"fp32": fp32, "int8": tmp_path / "int8"})
    add_scene(grid, Scene("grid", "", slide, PredictOptions()), checkpoint, passed, 2)
    assert grid.ratios["grid_int8_over_reference"] == 60
    assert grid.ratios["grid_openvino_int8_over_reference"] == 120
    assert set(grid.absent) == {"grid_bf16_over_reference"}


def test_pytorch_in_bf16_encodes_what_the_encoder_does(checkpoint: Checkpoint) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = torch_encoder(checkpoint.tile_encoder, tiles)().float().flatten()
    with torch.inference_mode():
        images = torch.cat([normalized(tile) for tile in tiles])
        wanted = checkpoint.tile_encoder.build()(images).flatten()
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.999


def test_encoder_in_bf16_is_compared_where_the_cpu_has_it(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = np.zeros((2, 224, 224, 3), np.uint8)

    class Refused:
        def open(self, *_: object, **options: object) -> None:
            assert options == {"precision": "bf16"}
            raise BackendError("precision bf16: this CPU does not multiply it in hardware")

    monkeypatch.setattr(encoding, "load_bundle", lambda path: Refused())
    cases, ratios, absent = measure_encoder(checkpoint, tmp_path, tiles)
    assert (cases, ratios) == ([], {})
    assert absent == {
        "encoder_over_torch_bf16": "precision bf16: this CPU does not multiply it in hardware"
    }


def test_prepare_is_compared_with_pytorch_eager(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """At a spot in a corner, whose neighborhood has few tiles."""
    slide = tmp_path / "slide.tif"
    synthesize_slide(slide, 672, 672, 0.5, seed=1)
    spots = Spots(np.array([[200.0, 200.0]]), np.array([[0, 0]]), "file", 100.0)
    cases, ratios, absent = measure_prepare(checkpoint, slide, spots, 0.5, tmp_path)
    eager, ours, *_ = cases
    assert (eager.name, eager.work.metadata["backend"]) == ("prepare, torch fp32", "torch")
    assert ours.work.metadata["backend"] in ("onnxruntime", "openvino")
    assert ours.work.metadata["tiles"] == eager.work.metadata["tiles"] == 4
    assert ratios["prepare_over_eager"] == eager.best_s / ours.best_s
    assert {*ratios, *absent} == {"prepare_over_eager", "prepare_bf16_over_eager"}
    features = [np.load(tmp_path / case.name / FEATURES) for case in (eager, ours)]
    np.testing.assert_allclose(features[1], features[0], atol=1e-3)
