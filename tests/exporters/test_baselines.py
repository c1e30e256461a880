"""Bundles of the models TRIPLEX is compared with: refusals, and their predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.variants import BASELINES, variant_checkpoint
from triplex_deploy import load_bundle, open_slide, predict_slide
from triplex_deploy.contract import GraphSpec, graph_specs
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.model_card import model_card
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.exporters.parity import ParityReport
from triplex_deploy.exporters.reference import normalize
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    state_of,
    write_checkpoint,
)
from triplex_deploy.models.egn import Egn
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.gates import EndToEndParity, GraphParity
from triplex_deploy.runtime.replay import replay_parity
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.spot_tables import spot_tables

BANK = {"sections": ["A1", "B2"], "spots": 60, "sha256": "0" * 64}
CENTERS_XY = [(300, 300), (500, 310), (300, 520), (610, 590)]
GRID_RC = [(3, 4), (3, 5), (4, 4), (9, 1)]


def checkpoint_of(name: str) -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        backbone = TileEncoder().backbone
    weights = TileEncoderWeights("random", "resnet18", state_of(backbone))
    return variant_checkpoint(BASELINES[name], weights, provenance={"bank": BANK})


@pytest.mark.parametrize("name", ["his_to_gene", "hist2st", "egn"])
def test_int8_is_refused_where_no_encoder_may_be_quantized(name: str, tmp_path: Path) -> None:
    write_checkpoint(checkpoint_of(name), tmp_path / "model.ckpt")
    tiles = np.zeros((40, 224, 224, 3), np.uint8)
    with pytest.raises(ConfigError, match=f"int8: {name} has no convolutional encoder"):
        export_bundle(
            tmp_path / "model.ckpt", tmp_path / "bundle", ExportOptions("int8", calibration=tiles)
        )
    assert not (tmp_path / "bundle").exists()


def test_tensorrt_is_refused(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_of("his_to_gene"), tmp_path / "model.ckpt")
    with pytest.raises(ConfigError, match="his_to_gene was never tried on TensorRT"):
        export_bundle(
            tmp_path / "model.ckpt",
            tmp_path / "bundle",
            ExportOptions(tensorrt=TensorrtOptions()),
        )


def test_triton_is_refused_before_any_work(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_of("bleep"), tmp_path / "model.ckpt")
    with pytest.raises(
        ConfigError, match="format triton: serves TRIPLEX and its parts only, not bleep"
    ):
        export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle", ExportOptions(triton=True))
    assert not (tmp_path / "bundle").exists()


def test_card_names_the_model_and_the_precision_of_each_graph() -> None:
    graph = GraphParity("retrieval", 1, 0.0, 1.0, 0.0, 1.0, True, True)
    report = ParityReport("fp16", (graph,), EndToEndParity(25, 0.0, 1.0, 1.0, True))
    checkpoint = checkpoint_of("egn")
    card = model_card(checkpoint, report, {"retrieval": "fp32", "fusion_head": "fp16"})
    assert card.startswith("# EGN bundle: 5 genes at 0.5 um/px")
    assert "fp32 in retrieval; fp16 in fusion_head" in card
    assert "- **Precision**: fp16\n" in model_card(checkpoint, report, {"retrieval": "fp16"})


def test_report_counts_the_rows_that_rounding_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of each case has a tie: too large a share of a single row, a small share of more."""

    def first_is_unclear(model: object, spec: GraphSpec, inputs: Mapping[str, Any]) -> Any:
        clear = np.ones(len(next(iter(inputs.values()))), bool)
        clear[0] = spec.name != "fusion_head"
        return clear

    monkeypatch.setattr("triplex_deploy.exporters.parity.without_ties", first_is_unclear)
    write_checkpoint(checkpoint_of("bleep"), tmp_path / "model.ckpt")
    _, report = export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    ties_skipped = {(graph.graph, graph.size): graph.ties_skipped for graph in report.graphs}
    assert {size: n for (graph, size), n in ties_skipped.items() if graph == "fusion_head"} == {
        1: 0,
        32: 1,
        256: 1,
    }
    assert not any(n for (graph, _), n in ties_skipped.items() if graph != "fusion_head")
    assert (report.end_to_end.spots, report.end_to_end.ties_skipped) == (24, 1)
    assert report.to_dict()["end_to_end"]["ties_skipped"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_parity")
@pytest.mark.parametrize("name", BASELINES)
def test_slide_is_predicted_as_by_the_model_itself(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(name)
    write_checkpoint(checkpoint, tmp_path / "model.ckpt")
    _, report = export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    assert report.passed
    synthesize_slide(tmp_path / "slide.tif", 900, 900, 0.5, seed=3)
    grid_rc = np.array(GRID_RC)
    spots = Spots(np.array(CENTERS_XY, np.float64), grid_rc, "file", 100.0)
    with load_bundle(tmp_path / "bundle").open(device="cpu") as model:
        options = PredictOptions(spots=spots)
        found = predict_slide(tmp_path / "slide.tif", model, options).expression
        assert model.bundle.manifest.provenance["bank"] == BANK
        assert list(model.sessions) == list(graph_specs(checkpoint.config))
        assert all(result.passed for result in replay_parity(model))
    wanted = forward(checkpoint, target_tiles(tmp_path / "slide.tif"), grid_rc)
    assert np.abs(found - wanted).max() <= 1e-4
    assert np.ptp(wanted, axis=0).max() > 1e-3


def target_tiles(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, *slide.level_sizes[0])
    return np.stack([pixels[y - 112 : y + 112, x - 112 : x + 112] for x, y in CENTERS_XY])


def forward(checkpoint: Checkpoint, tiles: np.ndarray, grid_rc: np.ndarray) -> np.ndarray:
    """Return the prediction of PyTorch, by the model's own ``forward``."""
    model, images = checkpoint.build_model(), normalize(tiles)
    tables = spot_tables(checkpoint.config, grid_rc)
    with torch.inference_mode():
        if isinstance(model, Egn):
            assert model.exemplars is not None
            features = checkpoint.tile_encoder.build()(images)
            return model(images, features, *model.exemplars(features)).numpy()
        return model(images, **{k: torch.from_numpy(v) for k, v in tables.items()}).numpy()
