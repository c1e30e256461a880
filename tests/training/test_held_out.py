"""What held-out spots say of a model: which spots these are, and what is measured at them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.few_parity_cases import few_parity_cases
from triplex_deploy.contract import ModelConfig
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.expression.metrics import gene_correlations
from triplex_deploy.expression.smoothing import smooth_spots
from triplex_deploy.models import Checkpoint, read_checkpoint
from triplex_deploy.reliability import RELIABILITY, GeneReliability, read_reliability
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.training import held_out
from triplex_deploy.training.held_out import HeldOutSection, calibrate, measure_reliability
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import LabeledSections, Prepared, label_sections
from triplex_deploy.training.train import train_fold

CONFIG = ModelConfig(
    model="gem",
    n_genes=3,
    feature_dim=3,
    embedding_dim=8,
    global_depth=2,
    fusion_heads=2,
    neighbor_heads=2,
    global_heads=2,
    global_mlp_ratio=1.0,
)
OPTIONS = TrainOptions(epochs=2, batch_size=6, learning_rate=0.01)


@pytest.fixture(scope="module")
def prepared(
    st_root: Path, mean_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    out = tmp_path_factory.mktemp("held") / "prepared"
    options = PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder)
    return prepare_dataset(st_root, out, options)


@pytest.fixture(autouse=True)
def _few_spots_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MIN_SPOTS", 3)


def train(prepared: Prepared, out: Path, options: TrainOptions = OPTIONS) -> Checkpoint:
    train_fold(prepared, prepared.folds[0], out, CONFIG, options)
    return read_checkpoint(out / "checkpoint.ckpt")


def with_other_counts(prepared: Prepared, name: str) -> Prepared:
    """Return the same data, but for the counts of one section."""
    section = prepared.sections[name]
    counts = section.measured.counts[::-1] * 3
    other = replace(section, measured=replace(section.measured, counts=counts))
    return replace(prepared, sections={**prepared.sections, name: other})


@pytest.mark.parametrize("refit", [False, True])
def test_test_sections_change_nothing_and_held_out_sections_do(
    prepared: Prepared, tmp_path: Path, refit: bool
) -> None:
    options = replace(OPTIONS, refit=refit)
    first = train(prepared, tmp_path / "first", options)
    (tested,) = prepared.folds[0].test
    assert first.calibration is not None
    assert first.reliability is not None
    again = train(with_other_counts(prepared, tested), tmp_path / "again", options)
    assert again.calibration is not None
    assert again.reliability is not None
    for ours, theirs in (
        (first.calibration.arrays(), again.calibration.arrays()),
        (first.reliability.arrays(), again.reliability.arrays()),
    ):
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    (held,) = first.provenance["selected_on"]
    assert held not in (tested, *(first.provenance["fitted_on"] if not refit else ()))
    other = train(with_other_counts(prepared, held), tmp_path / "other", options)
    assert other.reliability is not None
    assert not np.array_equal(other.reliability.raw_rmse, first.reliability.raw_rmse)


def test_nothing_is_measured_if_the_test_fold_chooses_or_spots_are_few(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = train(prepared, tmp_path / "a", replace(OPTIONS, selection="test_fold"))
    assert (chosen.calibration, chosen.reliability) == (None, None)
    monkeypatch.setattr(held_out, "MIN_SPOTS", 7)
    few = train(prepared, tmp_path / "b")
    assert (few.calibration, few.reliability) == (None, None)


def test_a_calibrated_bundle_returns_calibrated_values_and_a_raw_one_does_not(
    prepared: Prepared, tmp_path: Path
) -> None:
    checkpoint = train(prepared, tmp_path / "run")
    assert checkpoint.calibration is not None
    assert checkpoint.reliability is not None
    path, outputs = tmp_path / "run" / "checkpoint.ckpt", {}
    tokens = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    for raw in (False, True):
        with few_parity_cases():
            bundle, report = export_bundle(path, tmp_path / f"raw-{raw}", ExportOptions(raw=raw))
        assert report.passed
        assert bundle.manifest.calibrated is not raw
        stored = read_reliability(bundle.path / RELIABILITY)
        wanted = checkpoint.reliability.raw_rmse if raw else checkpoint.reliability.rmse
        np.testing.assert_array_equal(stored.rmse, wanted)
        head = bundle.path / "fusion_head.onnx"
        with open_ort_session(head, bundle.specs["fusion_head"]) as session:
            outputs[raw] = session.run({"global_tokens": tokens})["expression"]
    np.testing.assert_allclose(
        outputs[False], checkpoint.calibration.apply(outputs[True]), rtol=1e-4, atol=1e-4
    )
    assert np.abs(outputs[False] - outputs[True]).max() > 1e-3


GRID = np.stack(np.divmod(np.arange(400), 20), axis=1).astype(np.int64)


def section(seed: int, width: float = 2.0, noise: float = 0.5) -> HeldOutSection:
    """Return a section of smooth labels that are predicted too wide, and one gene by noise."""
    rng = np.random.default_rng(seed)
    labels = smooth_spots(rng.standard_normal((400, 3)), GRID)
    error = smooth_spots(rng.standard_normal((400, 3)), GRID)
    predicted = width * (labels + noise * error)
    predicted[:, 2] = error[:, 2]
    return HeldOutSection(labels.astype(np.float32), predicted.astype(np.float32), GRID)


def reliability(prepared: Prepared, *sections: HeldOutSection) -> GeneReliability:
    counts: LabeledSections = label_sections(
        prepared, ["A1"], prepared.panel(prepared.folds[0], "validation")
    )
    lines = calibrate(sections)
    assert lines is not None
    return measure_reliability(sections, counts, prepared.label_transform, lines)


def test_calibration_lowers_the_error_and_keeps_the_correlation_elsewhere() -> None:
    fitted, other = section(1), section(2)
    lines = calibrate([fitted])
    assert lines is not None
    values = lines.apply(other.predicted)

    def error(predicted: NDArray[np.floating]) -> float:
        return float(((predicted - other.labels) ** 2).mean())

    assert error(values) < 0.5 * error(other.predicted)
    np.testing.assert_allclose(
        gene_correlations(other.labels, values),
        gene_correlations(other.labels, other.predicted),
        atol=1e-5,
    )


def test_measured_numbers_are_those_of_their_definitions(prepared: Prepared) -> None:
    sections = [section(seed) for seed in range(3)]
    found = reliability(prepared, *sections)
    pcc = np.mean([gene_correlations(s.labels, s.predicted) for s in sections], axis=0)
    np.testing.assert_allclose(found.pcc, pcc, rtol=1e-5)
    squares = [(s.predicted - s.labels) ** 2 for s in sections]
    np.testing.assert_allclose(found.raw_rmse, np.sqrt(np.mean(squares, axis=(0, 1))), rtol=1e-5)
    assert (found.rmse < found.raw_rmse).all()
    assert (found.n_spots, found.n_sections) == (1200, 3)
    assert found.is_supported.tolist() == [True, True, False]


def test_error_is_that_of_the_calibrated_predictions(prepared: Prepared) -> None:
    one = section(4)
    lines = calibrate([one])
    assert lines is not None
    errors = lines.apply(one.predicted) - one.labels
    found = reliability(prepared, one)
    np.testing.assert_allclose(found.rmse, np.sqrt((errors**2).mean(axis=0)), rtol=1e-5)


def test_the_interval_of_noise_covers_zero_as_often_as_it_says(prepared: Prepared) -> None:
    covered = [
        not reliability(prepared, section(seed, noise=1.0)).is_supported[2] for seed in range(40)
    ]
    assert np.mean(covered) >= 0.9  # 97.5 % are below the upper side of a 95 % interval


def test_sections_that_differ_widen_the_interval(prepared: Prepared) -> None:
    alike = reliability(prepared, section(1), section(2))
    unlike = reliability(prepared, section(1), section(2, noise=8.0))
    width = [found.pcc_high - found.pcc_low for found in (alike, unlike)]
    assert width[1][0] > 2 * width[0][0]
