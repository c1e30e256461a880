"""A line for each gene, put into the weights, equals the line applied afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.variants import BASELINES, VARIANTS, model_of
from triplex_deploy.calibration import Calibration
from triplex_deploy.contract import BleepConfig, Config, EnsembleConfig, graph_specs
from triplex_deploy.errors import CheckpointError, ConfigError, ContractError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import (
    Checkpoint,
    SpotModel,
    TileEncoderWeights,
    build_model,
    read_checkpoint,
    state_of,
    write_checkpoint,
)
from triplex_deploy.models.ensemble import join_checkpoints

FOREIGN = TileEncoderWeights("means", "onnx", {}, b"an ONNX file", feature_dim=3)
CONFIG = replace(VARIANTS["gem"], feature_dim=3)
GENES = CONFIG.n_genes


def predict(model: SpotModel) -> torch.Tensor:
    """Return the output of the last graph for made-up tokens."""
    spec = graph_specs(model.config)["fusion_head"]
    inputs = graph_inputs(spec, 9, 1)
    with torch.inference_mode():
        return model.run_graph(
            "fusion_head", **{name: torch.from_numpy(array) for name, array in inputs.items()}
        )


@pytest.mark.parametrize(
    "config",
    [VARIANTS["triplex"], VARIANTS["tem"], VARIANTS["concat"], *BASELINES.values()],
    ids=lambda config: config.model,
)
def test_weights_take_the_line_of_every_family(config: Config) -> None:
    model = model_of(config, 3)
    before = predict(model)
    slope = torch.linspace(0.3, 1.7, config.n_genes)
    offset = torch.linspace(-2, 2, config.n_genes)
    model.rescale(slope, offset)
    torch.testing.assert_close(predict(model), before * slope + offset, rtol=1e-5, atol=2e-5)


def test_each_member_of_an_ensemble_takes_its_own_line() -> None:
    config = EnsembleConfig.of(CONFIG, 2)
    model = build_model(config, 1).eval()
    before = predict(model)
    slope = torch.linspace(0.3, 1.7, 2 * GENES)
    offset = torch.linspace(-2, 2, 2 * GENES)
    model.rescale(slope, offset)
    torch.testing.assert_close(predict(model), before * slope + offset, rtol=1e-5, atol=2e-5)


def test_a_model_that_ends_otherwise_is_refused_with_the_remedy() -> None:
    with pytest.raises(ContractError, match=r"ends in no linear layer.*--raw"):
        SpotModel(CONFIG).rescale(torch.ones(GENES), torch.zeros(GENES))
    with pytest.raises(ConfigError, match="no bank"):
        build_model(BleepConfig(n_genes=5)).rescale(torch.ones(5), torch.zeros(5))


def lines(seed: int, genes: int = GENES) -> Calibration:
    rng = np.random.default_rng(seed)
    return Calibration(
        rng.uniform(0.3, 1.7, genes).astype(np.float32), rng.normal(size=genes).astype(np.float32)
    )


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        config=CONFIG,
        genes=tuple("ABCDE"),
        label_transform={},
        tile_mpp=0.5,
        state_dict=state_of(build_model(CONFIG, 1)),
        tile_encoder=FOREIGN,
        calibration=lines(1),
    )


def test_a_checkpoint_keeps_its_calibration(checkpoint: Checkpoint, tmp_path) -> None:
    write_checkpoint(checkpoint, tmp_path / "a.ckpt")
    again = read_checkpoint(tmp_path / "a.ckpt")
    assert again.calibration is not None
    np.testing.assert_array_equal(again.calibration.slope, lines(1).slope)
    raw = predict(again.build_model())
    wanted = torch.from_numpy(lines(1).apply(raw.numpy()).astype(np.float32))
    torch.testing.assert_close(predict(again.build_calibrated()), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predict(again.without_calibration().build_calibrated()), raw)


def test_a_checkpoint_without_calibration_is_unchanged(checkpoint: Checkpoint, tmp_path) -> None:
    write_checkpoint(replace(checkpoint, calibration=None), tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert not content.keys() & {"calibration", "reliability", "training_tiles"}
    again = read_checkpoint(tmp_path / "a.ckpt")
    assert again.calibration is None
    assert torch.equal(predict(again.build_calibrated()), predict(again.build_model()))


def damaged(value: object, key: str = "slope") -> dict[str, object]:
    return {"slope": torch.ones(GENES), "offset": torch.zeros(GENES), key: value}


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (damaged(torch.full((GENES,), torch.nan)), "calibration: .*not between"),
        (damaged(torch.full((GENES,), torch.inf), "offset"), "calibration: .*not finite"),
        (damaged(-torch.ones(GENES)), "calibration: .*not between"),
        (damaged(torch.ones(GENES, dtype=torch.float64)), "calibration: .*give float32"),
        (damaged(torch.ones(GENES, dtype=torch.bfloat16)), "calibration: "),
        (damaged(torch.ones(GENES, 1)), "calibration: .*give float32"),
        (damaged("text"), "calibration: "),
        (damaged(torch.ones(1), "more"), "calibration: .*missing or unknown"),
        ({"slope": torch.ones(4), "offset": torch.zeros(4)}, "calibration: 4 genes.*predicts 5"),
        ([1, 2], "calibration: expected dict"),
    ],
)
def test_hostile_arrays_are_refused(
    checkpoint: Checkpoint, tmp_path, stored: object, words: str
) -> None:
    write_checkpoint(checkpoint, tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save({**content, "calibration": stored}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / "a.ckpt")


def test_members_are_calibrated_all_or_none(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, calibration=lines(2), state_dict=state_of(build_model(CONFIG, 2)))
    joined = join_checkpoints([checkpoint, other], ["a", "b"])
    assert joined.calibration is not None
    np.testing.assert_array_equal(
        joined.calibration.slope, np.concatenate([lines(1).slope, lines(2).slope])
    )
    raw = predict(joined.build_model())
    wanted = torch.from_numpy(joined.calibration.apply(raw.numpy()).astype(np.float32))
    torch.testing.assert_close(predict(joined.build_calibrated()), wanted, rtol=1e-5, atol=2e-5)
    with pytest.raises(CheckpointError, match=r"b: has no calibration.*--raw"):
        join_checkpoints([checkpoint, replace(other, calibration=None)], ["a", "b"])
    neither = [replace(member, calibration=None) for member in (checkpoint, other)]
    assert join_checkpoints(neither, ["a", "b"]).calibration is None
