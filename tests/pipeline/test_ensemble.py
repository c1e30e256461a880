"""An ensemble predicts the mean and the spread of what its members predict alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.few_parity_cases import few_parity_cases
from tests.variants import BASELINES, VARIANTS, model_of
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.contract import Config, EnsembleConfig, config_from_dict, graph_specs
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.models import build_model, read_checkpoint, state_of, write_checkpoint
from triplex_deploy.models.ensemble import join_checkpoints
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.prediction import Prediction

MEMBERS = ("a.ckpt", "b.ckpt", "c.ckpt")


class Predicted(NamedTuple):
    """Predictions of one slide."""

    ensemble: Prediction
    """By all members as one bundle."""
    alone: list[Prediction]
    """By each member's own bundle."""
    provenance: dict[str, Any]
    """The provenance in the manifest of the ensemble's bundle."""


@pytest.fixture(scope="module")
def members(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of one model with other weights."""
    folder = tmp_path_factory.mktemp("members")
    first = read_checkpoint(tiny_checkpoint)
    for seed, name in enumerate(MEMBERS, start=1):
        state = state_of(build_model(first.config, seed))
        write_checkpoint(replace(first, state_dict=state), folder / name)
    return [folder / name for name in MEMBERS]


@pytest.fixture(scope="module")
def predicted(
    members: list[Path], slide_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Predicted:
    """The ensemble's prediction of a slide, and each member's."""
    folder, found = tmp_path_factory.mktemp("bundles"), []
    with few_parity_cases():
        exported: list[Path | list[Path]] = [members, *members]
        for i, paths in enumerate(exported):
            export_bundle(paths, folder / f"bundle-{i}")
            with load_bundle(folder / f"bundle-{i}").open(device="cpu") as model:
                found.append(predict_slide(slide_path, model))
    return Predicted(found[0], found[1:], load_bundle(folder / "bundle-0").manifest.provenance)


def test_mean_and_spread_are_those_of_the_members(predicted: Predicted) -> None:
    ensemble, alone = predicted.ensemble, predicted.alone
    each = np.stack([prediction.expression for prediction in alone])
    np.testing.assert_allclose(ensemble.expression, each.mean(0), rtol=0, atol=1e-5)
    assert ensemble.spread is not None
    np.testing.assert_allclose(ensemble.spread, each.std(0, ddof=1), rtol=0, atol=1e-5)
    assert ensemble.spread.max() > 1e-3
    assert ensemble.run["members"] == len(MEMBERS)
    assert all(prediction.spread is None for prediction in alone)


def test_spread_is_written_read_and_selected(predicted: Predicted, tmp_path: Path) -> None:
    ensemble = predicted.ensemble
    ensemble.write_h5ad(tmp_path / "slide.h5ad")
    again = read_prediction(tmp_path / "slide.h5ad")
    assert ensemble.spread is not None
    assert again.spread is not None
    np.testing.assert_array_equal(again.spread, ensemble.spread)
    last = ensemble.select_genes(ensemble.genes[-1:])
    assert last.spread is not None
    np.testing.assert_array_equal(last.spread[:, 0], ensemble.spread[:, -1])


@pytest.mark.parametrize("config", [VARIANTS["triplex"], VARIANTS["sum"], BASELINES["hist2st"]])
def test_graphs_hold_the_members_side_by_side(config: Config) -> None:
    ensemble = EnsembleConfig.of(config, 3)
    alone, joined = graph_specs(config), graph_specs(ensemble)
    assert list(joined) == list(alone)
    assert joined["fusion_head"].outputs[0].axes == ("batch", 3 * config.n_genes)
    for name, spec in joined.items():
        kept = [tensor for tensor in spec.inputs if tensor in alone[name].inputs]
        given = {tensor.name for tensor in spec.inputs} - {tensor.name for tensor in kept}
        assert given <= {s.outputs[0].name for s in alone.values() if s.name != "tile_encoder"}
    assert config_from_dict(ensemble.to_dict()) == ensemble


@pytest.mark.parametrize("name", ["triplex", "as in 2025"])
def test_every_graph_of_the_network_is_that_of_its_members(name: str) -> None:
    config = VARIANTS[name]
    networks = [model_of(config, seed) for seed in (1, 2)]
    ensemble = build_model(EnsembleConfig.of(config, 2)).eval()
    state = {
        f"members.{i}.{key}": tensor
        for i, network in enumerate(networks)
        for key, tensor in network.state_dict().items()
    }
    ensemble.load_state_dict(state)
    spec = graph_specs(config)["fusion_head"]
    generator = torch.Generator().manual_seed(0)
    inputs: list[dict[str, Any]] = [
        {
            tensor.name: torch.ones(4, 25, dtype=torch.bool)
            if tensor.dtype == "bool"
            else torch.randn(4, *map(int, tensor.axes[1:]), generator=generator)
            for tensor in spec.inputs
        }
        for _ in networks
    ]
    wanted = torch.cat(
        [n.run_graph("fusion_head", **i) for n, i in zip(networks, inputs, strict=True)], 1
    )
    joined = {
        key: value if value.dtype == torch.bool else torch.cat([i[key] for i in inputs], 1)
        for key, value in inputs[0].items()
    }
    torch.testing.assert_close(ensemble.run_graph("fusion_head", **joined), wanted)


def test_members_must_differ_in_weights_only(members: list[Path]) -> None:
    first = read_checkpoint(members[0])
    genes = tuple(f"other{i}" for i in range(len(first.genes)))
    for changed, what in [
        (replace(first, genes=genes), "genes"),
        (replace(first, tile_mpp=0.6), "tile scale"),
        (replace(first, label_transform={"scale": 1}), "label transform"),
    ]:
        with pytest.raises(CheckpointError, match=f"^b: not the {what} of a"):
            join_checkpoints([first, changed], ["a", "b"])


def test_tile_encoders_of_other_weights_are_refused(checkpoint_path: Path) -> None:
    first = read_checkpoint(checkpoint_path)
    state = dict(first.tile_encoder.state_dict)
    key = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[key] = state[key] + 1
    other = replace(first, tile_encoder=replace(first.tile_encoder, state_dict=state))
    with pytest.raises(CheckpointError, match=r"^b: not the weights of the tile encoder of a"):
        join_checkpoints([first, other], ["a", "b"])


@pytest.mark.parametrize("name", ["egn", "bleep"])
def test_models_that_look_up_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="looks up training spots"):
        EnsembleConfig.of(BASELINES[name], 2)


def test_hostile_configurations_are_refused() -> None:
    nested = EnsembleConfig.of(VARIANTS["triplex"], 2).to_dict()
    for _ in range(3000):
        nested = {"model": "ensemble", "members": 2, "member": nested}
    with pytest.raises(ConfigError, match="cannot hold ensembles"):
        config_from_dict(nested)
    with pytest.raises(ConfigError, match="members=10000"):
        config_from_dict(EnsembleConfig.of(VARIANTS["triplex"], 2).to_dict() | {"members": 10000})
    with pytest.raises(ConfigError, match="n_genes=7"):
        config_from_dict(EnsembleConfig.of(VARIANTS["triplex"], 2).to_dict() | {"n_genes": 7})


def test_provenance_names_every_member(members: list[Path], predicted: Predicted) -> None:
    names = [f"{path.parent.name}/{path.name}" for path in members]
    assert list(predicted.provenance["checkpoints"]) == names
    assert [member["name"] for member in predicted.provenance["members"]] == names
