"""int8 bundles: calibrated on slides, held to their own gate, fp32 where int8 would ruin tokens."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.export import ExportOptions, export_bundle
from triplex_deploy.exporters.inputs import tiles
from triplex_deploy.exporters.int8 import split_calibration
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.runtime.replay import replay_parity


def _tiles(count: int) -> np.ndarray:
    return tiles((count, 224, 224, 3), np.random.default_rng(7))


def test_held_out_tiles_are_not_calibrated_on() -> None:
    numbered = np.zeros((40, 224, 224, 3), np.uint8)
    numbered += np.arange(40, dtype=np.uint8)[:, None, None, None]
    calibration, held_out = split_calibration(numbered)
    kept, held = set(calibration[:, 0, 0, 0].tolist()), set(held_out[:, 0, 0, 0].tolist())
    assert (len(kept), len(held)) == (24, 16)
    assert not kept & held
    assert {0, 39} <= held


def test_too_few_or_odd_calibration_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="31 tiles"):
        split_calibration(_tiles(31))
    with pytest.raises(ConfigError, match="float32"):
        split_calibration(np.zeros((40, 224, 224, 3), np.float32))


def test_int8_without_calibration_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8 and fp8 need slides"):
        ExportOptions(precision="int8")
    with pytest.raises(ConfigError, match="other precisions take none"):
        ExportOptions(calibration=_tiles(1))
    with pytest.raises(ConfigError, match="'fp4'"):
        ExportOptions(precision="fp4")


def test_sampled_tiles_are_the_slides_own_pixels(tmp_path: Path) -> None:
    path = tmp_path / "tissue.tif"
    synthesize_slide(path, 900, 900, 0.5, seed=1)
    sampled = sample_tiles(path, 0.5, count=5)
    assert sampled.shape == (5, 224, 224, 3)
    assert sampled.std() > 10
    assert len(sample_tiles(path, 0.5, count=1000)) < 17


@pytest.mark.slow
def test_int8_bundle_passes_its_gate_and_keeps_transformers_exact(
    checkpoint_path: Path, tmp_path: Path
) -> None:
    options = ExportOptions(precision="int8", calibration=_tiles(48))
    bundle, report = export_bundle(checkpoint_path, tmp_path / "bundle", options)
    assert bundle.manifest.precision == "int8"
    precision = {entry.name: entry.precision for entry in bundle.manifest.graphs}
    assert precision == {
        "tile_encoder": "int8",
        "target_encoder": "int8",
        "neighbor_encoder": "fp32",
        "global_encoder": "fp32",
        "fusion_head": "fp32",
    }
    sizes = [graph.size for graph in report.graphs if graph.graph == "tile_encoder"]
    assert sizes == [1, 4, 16, 16], "the held-out slide tiles are the fourth case"
    graph = onnx.load(bundle.path / "tile_encoder.onnx").graph
    weights = [init for init in graph.initializer if init.data_type == onnx.TensorProto.INT8]
    assert len([init for init in weights if len(init.dims) == 4]) == 20
    with load_bundle(bundle.path).open(device="cpu") as model:
        assert all(result.passed for result in replay_parity(model))
