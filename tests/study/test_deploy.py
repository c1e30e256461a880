"""What a deployed model costs, and the maps drawn of its prediction."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.study.conftest import study_values, write_study
from triplex_deploy.cli.main import run as run_command
from triplex_deploy.contract import (
    BleepConfig,
    Config,
    Hist2StConfig,
    HisToGeneConfig,
    ModelConfig,
    StNetConfig,
)
from triplex_deploy.errors import OutputError
from triplex_deploy.models import build_model, read_checkpoint
from triplex_deploy.study.deploy import COST_FILE, Deployment
from triplex_deploy.study.parameters import all_parameters, deployed_parameters
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepared import open_prepared


@pytest.fixture(scope="module")
def deployed(prepared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one model on one fold, exported."""
    folder = tmp_path_factory.mktemp("deployed")
    values = study_values(prepared_path, folds=[1], maps={"ST": {"section": "B1"}})
    del values["models"]["NEM"]
    path = write_study(folder, values)
    assert run_command(["study", str(path), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_exported_model_predicts_the_section_as_the_trained_one(
    deployed: Path, prepared_path: Path
) -> None:
    checkpoint = read_checkpoint(deployed / "cells/ST/GEM/fold-1/seed-1/checkpoint.ckpt")
    section = open_prepared(prepared_path).sections["B1"]
    with np.load(deployed / "deployed/ST/GEM/prediction.npz") as arrays:
        assert tuple(arrays["genes"]) == checkpoint.genes
        wanted = predict_section(checkpoint.build_model(), section)
        np.testing.assert_allclose(arrays["expression"], wanted, atol=1e-4)


def test_damaged_prediction_is_one_error(deployed: Path, tmp_path: Path) -> None:
    whole = (deployed / "deployed/ST/GEM/prediction.npz").read_bytes()
    deployment = Deployment(None, "B1", tmp_path)  # type: ignore[arg-type]
    assert deployment.prediction() is None
    (tmp_path / "prediction.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OutputError, match=r"prediction\.npz: damaged: .*; remove it and run"):
        deployment.prediction()


def test_costs_are_in_the_results(deployed: Path) -> None:
    results = json.loads((deployed / "tiny.json").read_text())
    cost = results["datasets"]["ST"]["models"]["GEM"]["deployed"]
    size = sum(f.stat().st_size for f in (deployed / "deployed/ST/GEM/bundle").iterdir())
    assert cost["bundle_mb"] == pytest.approx(size / 1e6, abs=0.01)
    assert cost["section"] == "B1"
    assert cost["spots"] == 6
    assert cost["spots_per_s"] > 0
    assert 50 < cost["peak_memory_mb"] < 2000
    assert cost["parity_passed"]
    assert (deployed / "figures/tiny-ST-maps.png").read_bytes().startswith(b"\x89PNG")


def test_deployment_is_kept_as_long_as_its_checkpoint_is(deployed: Path) -> None:
    bundle = deployed / "deployed/ST/GEM/bundle/manifest.json"
    before = bundle.stat().st_mtime_ns
    arguments = ["study", str(deployed.parent / "study.yaml"), "--out", str(deployed)]
    assert run_command(arguments) == 0
    assert bundle.stat().st_mtime_ns == before


def test_cost_that_an_earlier_version_recorded_is_kept(deployed: Path) -> None:
    folder = deployed / "deployed/ST/GEM"
    bundle = folder / "bundle/manifest.json"
    before = bundle.stat().st_mtime_ns
    (folder / COST_FILE).rename(folder / "facts.json")
    arguments = ["study", str(deployed.parent / "study.yaml"), "--out", str(deployed)]
    assert run_command(arguments) == 0
    assert bundle.stat().st_mtime_ns == before
    (folder / "facts.json").rename(folder / COST_FILE)


def test_deployed_parameters_leave_out_what_only_training_needs() -> None:
    """See docs/models.md, "Hist2ST": three ZINB heads and the distillation network are left out."""
    config = Hist2StConfig(
        n_genes=3, embedding_dim=256, mlp_dim=256, channels=8, depth=1, heads=2, graph_depth=1
    )
    model = build_model(config, seed=0)
    zinb = 3 * (256 * 3 + 3)
    distillation = 256 * 256 + 256 + 256 + 1
    left_out = all_parameters(model) - deployed_parameters(model)
    assert left_out == zinb + distillation


def test_deployed_parameters_of_triplex_leave_out_its_auxiliary_heads() -> None:
    config = ModelConfig(model="gem", n_genes=3, feature_dim=8, embedding_dim=16, global_heads=2)
    model = build_model(config, seed=0)
    assert 0 < deployed_parameters(model) <= all_parameters(model)


def test_bank_of_bleep_counts_no_parameters() -> None:
    config = BleepConfig(n_genes=3, embedding_dim=4, n_retrieved=2, bank_size=5)
    model = build_model(config, seed=0)
    assert all_parameters(model) - deployed_parameters(model) == sum(
        parameter.numel() for name, parameter in model.named_parameters() if "expression" in name
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "count"),
    [
        (StNetConfig(), 7_210_106),
        (HisToGeneConfig(), 106_099_962),
        (Hist2StConfig(), 71_776_958),
        (BleepConfig(bank_size=60), 11_702_848),
    ],
    ids=lambda value: getattr(value, "model", ""),
)
def test_deployed_parameters_are_the_documented_ones(config: Config, count: int) -> None:
    assert deployed_parameters(build_model(config, seed=0)) == count
