"""Every model and ablation as ONNX graphs: each distinct graph at odd sizes, and whole bundles."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.inputs import graph_inputs
from exporters.reference import Reference, torch_tile_encoder
from exporters.to_onnx import write_onnx
from exporters.wrappers import graph_modules
from tests.variants import VARIANTS
from triplex_deploy.contract import CENTER, ModelConfig, graph_specs
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    Triplex,
    build_model,
    state_of,
    write_checkpoint,
)
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.ort import open_ort_session

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
"""One variant for each graph that others lack in that form; bundles below have the trunks."""


def tile_encoder_of(config: ModelConfig) -> TileEncoder | None:
    trunks = {512: "resnet18", 1280: "efficientnet_lite0"}
    trunk = trunks.get(config.feature_dim)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return None if trunk is None else TileEncoder(trunk).eval()


@pytest.mark.parametrize(("variant", "graph"), DISTINCT, ids=[" ".join(pair) for pair in DISTINCT])
def test_graph_equals_pytorch_at_every_size(variant: str, graph: str, tmp_path: Path) -> None:
    config = VARIANTS[variant]
    model, tile_encoder = build_model(config, seed=0).eval(), tile_encoder_of(config)
    spec = graph_specs(config)[graph]
    module = graph_modules(model, tile_encoder)[graph]
    write_onnx(module, spec, "onnxruntime", {}, tmp_path / "graph.onnx")
    reference = Reference(model, torch_tile_encoder(tile_encoder or TileEncoder()))
    with open_ort_session(tmp_path / "graph.onnx", spec, threads=1) as session:
        for size in SIZES[spec.batch_axis]:
            inputs = graph_inputs(spec, size)
            (found,) = session.run(inputs).values()
            wanted = reference.run(graph, inputs)
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= TOLERANCE * max(1.0, np.ptp(wanted)), size


def test_modules_are_those_of_the_contract() -> None:
    for config in VARIANTS.values():
        with torch.device("meta"):
            model, tile_encoder = Triplex(config).eval(), TileEncoder().eval()
        assert list(graph_modules(model, tile_encoder)) == list(graph_specs(config))


def test_neighborhood_masked_but_for_its_center(model: Model) -> None:
    """And a slide of one spot: the edges of what a slide can hold."""
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


def checkpoint_of(config: ModelConfig, tile_encoder: TileEncoderWeights) -> Checkpoint:
    return Checkpoint(
        config=config,
        genes=tuple(f"gene{i}" for i in range(config.n_genes)),
        label_transform={},
        tile_mpp=0.5,
        state_dict=state_of(build_model(config, seed=1)),
        tile_encoder=tile_encoder,
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "foreign features"])
def test_bundle_of_every_variant_passes_its_gate(variant: str, tmp_path: Path) -> None:
    from exporters.export import export_bundle
    from exporters.verify import replay_parity
    from triplex_deploy.runtime.model import load_bundle

    config = VARIANTS[variant]
    encoder = tile_encoder_of(config)
    assert encoder is not None
    kind = "resnet18" if config.feature_dim == 512 else "efficientnet_lite0"
    weights = TileEncoderWeights(
        "random", kind, state_of(encoder.trunk), feature_dim=config.feature_dim
    )
    write_checkpoint(checkpoint_of(config, weights), tmp_path / "model.ckpt")
    _, report = export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    assert report.passed
    with load_bundle(tmp_path / "bundle").open(device="cpu") as opened:
        assert list(opened.sessions) == list(graph_specs(config))
        assert all(result.passed for result in replay_parity(opened))
