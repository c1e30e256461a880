"""Every model and ablation as ONNX graphs: each graph at unusual sizes, and whole bundles."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.variants import BASELINES, VARIANTS, model_of, variant_checkpoint
from triplex_deploy.contract import CENTER, BleepConfig, Config, EgnConfig, graph_specs
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.lookup import is_lookup
from triplex_deploy.exporters.reference import Reference, torch_tile_encoder
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import (
    TileEncoder,
    TileEncoderWeights,
    build_model,
    state_of,
    write_checkpoint,
)
from triplex_deploy.runtime.gates import in_one_order
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.ort import open_ort_session

ALL: dict[str, Config] = {**VARIANTS, **BASELINES}
TOLERANCE = 1e-5
SIZES = {"batch": (1, 5), "spots": (1, 2, 33, 211)}
DISTINCT = [
    ("tem", "target_encoder"),
    ("tem", "fusion_head"),
    ("nem", "neighbor_encoder"),
    ("gem", "fusion_head"),
    ("without target", "neighbor_encoder"),
    ("without target", "fusion_head"),
    ("without neighbor", "fusion_head"),
    ("without global", "fusion_head"),
    ("sum", "fusion_head"),
    ("concat", "fusion_head"),
    ("attention pool", "fusion_head"),
    ("peg", "global_encoder"),
    ("no position", "global_encoder"),
    ("no auxiliary heads", "fusion_head"),
    ("as in 2025", "global_encoder"),
    ("as in 2025", "fusion_head"),
]
"""One variant for each graph that others lack in that form; bundles below have the backbones."""
OF_BASELINES = [
    ("his_to_gene", "target_encoder"),
    ("his_to_gene", "global_encoder"),
    ("his_to_gene", "fusion_head"),
    ("hist2st", "target_encoder"),
    ("hist2st", "global_encoder"),
    ("egn", "target_encoder"),
    ("egn", "retrieval"),
    ("egn", "fusion_head"),
    ("bleep", "fusion_head"),
]
"""The graphs of the models TRIPLEX is compared with, except the large backbones."""


def tile_encoder_of(config: Config) -> TileEncoder | None:
    backbones = {512: "resnet18", 1280: "efficientnet_lite0"}
    backbone = backbones.get(config.feature_dim)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return None if backbone is None else TileEncoder(backbone).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return the file of a graph of a variant for ONNX Runtime; it is written once."""
    folder = tmp_path_factory.mktemp("graphs")

    @cache
    def write(variant: str, graph: str) -> Path:
        config, path = ALL[variant], folder / f"{variant}-{graph}.onnx"
        modules = graph_modules(model_of(config, seed=0), tile_encoder_of(config))
        write_onnx(modules[graph], graph_specs(config)[graph], "onnxruntime", {}, path)
        return path

    return write


@pytest.mark.parametrize(
    ("variant", "graph"),
    [
        pytest.param(
            *pair,
            id=" ".join(pair),
            # the settings of one family differ in few operators
            marks=[pytest.mark.slow] if pair in DISTINCT and pair[0] != "triplex" else [],
        )
        for pair in DISTINCT + OF_BASELINES
    ],
)
def test_graph_equals_pytorch_at_every_size(
    variant: str, graph: str, written: Callable[[str, str], Path]
) -> None:
    assert_equal_at_every_size(ALL[variant], graph, written(variant, graph))


@pytest.mark.parametrize("bank_size", [None, 900])
@pytest.mark.parametrize(("variant", "graph"), [("egn", "retrieval"), ("bleep", "fusion_head")])
def test_banks_of_just_enough_and_of_many_spots(
    variant: str, graph: str, bank_size: int | None, tmp_path: Path
) -> None:
    config = BASELINES[variant]
    assert isinstance(config, EgnConfig | BleepConfig)
    looked_up = config.n_exemplars if isinstance(config, EgnConfig) else config.n_retrieved
    config = replace(config, bank_size=bank_size or looked_up)
    modules = graph_modules(model_of(config, seed=0), tile_encoder_of(config))
    path = tmp_path / "graph.onnx"
    write_onnx(modules[graph], graph_specs(config)[graph], "onnxruntime", {}, path)
    assert_equal_at_every_size(config, graph, path)


def assert_equal_at_every_size(config: Config, graph: str, path: Path) -> None:
    spec = graph_specs(config)[graph]
    tile_encoder = tile_encoder_of(config) or TileEncoder()
    reference = Reference(model_of(config, seed=0), torch_tile_encoder(tile_encoder))
    with open_ort_session(path, spec, threads=1) as session:
        for size in SIZES[spec.batch_axis]:
            inputs = graph_inputs(spec, size, n_positions=getattr(config, "n_positions", 1))
            ((output, found),) = session.run(inputs).items()
            found = in_one_order(output, found)
            wanted = in_one_order(output, reference.run(graph, inputs))
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= TOLERANCE * max(1.0, np.ptp(wanted)), size


def test_modules_are_those_of_the_contract() -> None:
    for config in ALL.values():
        with torch.device("meta"):
            model, tile_encoder = build_model(config).eval(), TileEncoder().eval()
        assert list(graph_modules(model, tile_encoder)) == list(graph_specs(config))


def test_neighborhood_masked_but_for_its_center(model: Model) -> None:
    """The smallest inputs: a neighborhood with only its center, and a slide of one spot."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 25, 512), dtype=np.float32)
    mask = np.zeros((2, 25), bool)
    mask[:, CENTER] = True
    others = features + rng.standard_normal(features.shape, dtype=np.float32) * ~mask[..., None]
    tokens, again = (
        model.run("neighbor_encoder", {"features": f, "mask": mask})["neighbor_tokens"]
        for f in (features, others)
    )
    assert np.isfinite(tokens).all()
    np.testing.assert_array_equal(tokens[:, CENTER], again[:, CENTER])
    alone = {"features": features[0, :1], "apeg_index": np.full((1, 9), -1)}
    assert np.isfinite(model.run("global_encoder", alone)["global_tokens"]).all()


def test_graph_carries_no_weights_of_other_parts(written: Callable[[str, str], Path]) -> None:
    """HisToGene's patch projection of 37632 x 32 weights is not in the graphs after it."""
    n_bytes = {
        graph: written("his_to_gene", graph).stat().st_size
        for graph in graph_specs(BASELINES["his_to_gene"])
    }
    assert n_bytes["target_encoder"] > 4 * 37632 * 32
    assert n_bytes["global_encoder"] < 250_000  # two embeddings of 64 and two blocks of width 32
    assert n_bytes["fusion_head"] < 10_000


@pytest.mark.parametrize(("variant", "blocks"), [("his_to_gene", 2), ("hist2st", 1)])
def test_attention_over_spots_has_linear_memory(
    variant: str, blocks: int, written: Callable[[str, str], Path]
) -> None:
    graph = onnx.load(written(variant, "global_encoder")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MultiHeadAttention") == blocks
    assert "Softmax" not in kinds


@pytest.mark.parametrize(
    ("variant", "graph", "looks_up"),
    [("egn", "retrieval", True), ("bleep", "fusion_head", True), ("egn", "fusion_head", False)],
)
def test_lookup_is_told_by_its_graph(
    variant: str, graph: str, looks_up: bool, written: Callable[[str, str], Path]
) -> None:
    assert is_lookup(written(variant, graph)) is looks_up


@pytest.mark.slow
@pytest.mark.usefixtures("small_parity")  # the graphs above are compared at many sizes
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "foreign features"])
def test_bundle_of_every_variant_passes_its_gate(variant: str, tmp_path: Path) -> None:
    """``test_baselines`` exports the models of ``BASELINES``."""
    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.runtime.model import load_bundle
    from triplex_deploy.runtime.replay import replay_parity

    config = ALL[variant]
    encoder = tile_encoder_of(config)
    assert encoder is not None
    kind = "resnet18" if config.feature_dim == 512 else "efficientnet_lite0"
    weights = TileEncoderWeights(
        "random", kind, state_of(encoder.backbone), feature_dim=config.feature_dim
    )
    write_checkpoint(variant_checkpoint(config, weights), tmp_path / "model.ckpt")
    _, report = export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    assert report.passed
    with load_bundle(tmp_path / "bundle").open(device="cpu") as opened:
        assert list(opened.sessions) == list(graph_specs(config))
        assert all(result.passed for result in replay_parity(opened))
