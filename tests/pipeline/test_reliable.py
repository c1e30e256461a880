"""A prediction carries what the bundle knows of its genes, and an ensemble its expected error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.few_parity_cases import few_parity_cases
from triplex_deploy import PredictOptions, load_bundle, predict_slide
from triplex_deploy.bundle import read_bundle
from triplex_deploy.calibration import Calibration
from triplex_deploy.errors import BundleError, CheckpointError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.models import build_model, read_checkpoint, state_of, write_checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.reliability import RELIABILITY, GeneReliability

GENES = 5


def reliability(rmse: float) -> GeneReliability:
    numbers = {
        "pcc": np.linspace(-0.2, 0.6, GENES),
        "pcc_low": np.linspace(-0.4, 0.4, GENES),
        "pcc_high": np.linspace(0, 0.8, GENES),
        "rmse": np.full(GENES, rmse),
        "raw_rmse": np.full(GENES, 2 * rmse),
        "pcc_ceiling": np.full(GENES, 0.9),
    }
    return GeneReliability(
        **{name: values.astype(np.float32) for name, values in numbers.items()},
        n_spots=100,
        n_sections=1,
    )


@pytest.fixture(scope="module")
def members(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints with a calibration and a reliability each."""
    folder = tmp_path_factory.mktemp("measured")
    first = read_checkpoint(tiny_checkpoint)
    for seed in (1, 2):
        slope = np.full(GENES, 0.5 * seed, np.float32)
        member = replace(
            first,
            state_dict=state_of(build_model(first.config, seed)),
            calibration=Calibration(slope, np.arange(GENES, dtype=np.float32)),
            reliability=reliability(0.1 * seed),
        )
        write_checkpoint(member, folder / f"{seed}.ckpt")
    return [folder / "1.ckpt", folder / "2.ckpt"]


@pytest.fixture(scope="module")
def predicted(
    members: list[Path], slide_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Prediction]:
    """The ensemble calibrated and raw, and the first member alone calibrated and raw."""
    folder, found = tmp_path_factory.mktemp("exported"), {}
    for name, given in (("one", members[0]), ("both", members)):
        for raw in (False, True):
            key = f"{name} raw" if raw else name
            with few_parity_cases():
                export_bundle(given, folder / key, ExportOptions(raw=raw))
            with load_bundle(folder / key).open(device="cpu") as model:
                found[key] = predict_slide(slide_path, model)
    return found


def test_calibrated_bundles_predict_the_line_of_what_raw_ones_predict(
    predicted: dict[str, Prediction],
) -> None:
    wanted = predicted["one raw"].expression * 0.5 + np.arange(GENES)
    np.testing.assert_allclose(predicted["one"].expression, wanted, rtol=1e-4, atol=1e-4)


def test_runs_say_whether_they_are_calibrated_and_what_std_is(
    predicted: dict[str, Prediction],
) -> None:
    runs = {key: prediction.run for key, prediction in predicted.items()}
    assert [runs[key]["calibrated"] for key in ("one", "one raw", "both")] == [True, False, True]
    assert runs["one"]["gene_reliability"] == "measured at 100 held-out spots of 1 section"
    assert runs["both"]["std"] == "expected error of the mean"
    assert runs["both raw"]["std"] == "disagreement of the members"
    assert "std" not in runs["one"]


def test_expected_error_has_the_held_out_error_and_the_disagreement(
    predicted: dict[str, Prediction],
) -> None:
    both, raw = predicted["both"], predicted["both raw"]
    assert both.spread is not None
    assert raw.spread is not None
    rmse = np.sqrt((0.1**2 + 0.2**2) / 2)
    assert both.reliability is not None
    np.testing.assert_allclose(both.reliability.rmse, rmse, rtol=1e-5)
    assert (both.spread >= rmse - 1e-6).all()
    # the disagreement of calibrated members: the two slopes are 0.5 and 1
    disagreement = np.sqrt(both.spread.astype(float) ** 2 - rmse**2)
    assert np.isfinite(disagreement).all()
    assert not np.allclose(disagreement, raw.spread, rtol=0.1)


def test_chosen_genes_keep_their_numbers(members: list[Path], slide_path: Path, tmp_path) -> None:
    with few_parity_cases():
        export_bundle(members[0], tmp_path / "bundle")
    with load_bundle(tmp_path / "bundle").open(device="cpu") as model:
        names = model.bundle.manifest.genes
        chosen = predict_slide(slide_path, model, PredictOptions(genes=(names[4], names[0])))
    assert chosen.reliability is not None
    np.testing.assert_allclose(chosen.reliability.pcc, [0.6, -0.2], rtol=1e-5)
    assert chosen.to_anndata().var["heldout"].tolist() == ["supported", "not supported"]


def test_numbers_of_other_genes_are_refused(
    members: list[Path], slide_path: Path, tmp_path: Path
) -> None:
    first = read_checkpoint(members[0])
    few = reliability(0.1).select(np.arange(3))
    with pytest.raises(CheckpointError, match="reliability: 3 genes, the model predicts 5"):
        replace(first, reliability=few)
    with few_parity_cases():
        export_bundle(members[0], tmp_path / "bundle")
    np.savez(tmp_path / "bundle" / RELIABILITY, **few.arrays())  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=f"{RELIABILITY}: altered"):
        read_bundle(tmp_path / "bundle")


def test_a_checkpoint_without_gives_a_bundle_that_says_not_measured(
    tiny_checkpoint: Path, slide_path: Path, tmp_path: Path
) -> None:
    with few_parity_cases():
        bundle, _ = export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert bundle.manifest.calibrated is False
    assert RELIABILITY not in bundle.manifest.files
    with load_bundle(tmp_path / "bundle").open(device="cpu") as model:
        prediction = predict_slide(slide_path, model)
    assert prediction.reliability is None
    assert prediction.run["gene_reliability"] == "not measured"
    assert prediction.run["calibrated"] is False


def test_a_manifest_that_does_not_say_keeps_its_digest(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with few_parity_cases():
        bundle, _ = export_bundle(tiny_checkpoint, tmp_path / "bundle")
    old = bundle.manifest.model_copy(update={"calibrated": None}).sealed()
    assert "calibrated" not in old.to_json()
    (tmp_path / "bundle" / "manifest.json").write_text(old.to_json())
    again = read_bundle(tmp_path / "bundle")
    assert again.manifest.calibrated is None
    assert again.id == bundle.id
