from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.demo.conftest import MadeDataset
from triplex_deploy.demo.programs import GENES
from triplex_deploy.demo.truth import measure_ceiling, measured_beside, write_truth
from triplex_deploy.errors import ContractError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.match import Matched, match_truth


@pytest.fixture
def truth_path(made_dataset: MadeDataset, tmp_path: Path) -> Path:
    write_truth(tmp_path / "truth.h5ad", made_dataset.sections[0])
    return tmp_path / "truth.h5ad"


@pytest.fixture
def prediction(made_dataset: MadeDataset) -> Prediction:
    """The expected labels themselves, spots in reverse and genes in another order."""
    made = made_dataset.sections[0]
    labels = LabelTransform()(made.counts.expected, made.grid_rc)
    order = np.arange(len(made.grid_rc))[::-1]
    genes = np.roll(np.arange(len(GENES)), 3)
    return Prediction(
        slide_name="A1",
        expression=np.ascontiguousarray(labels[np.ix_(order, genes)], np.float32),
        genes=tuple(GENES[i] for i in genes),
        level0_xy=np.ascontiguousarray(made.level0_xy[order]),
        grid_rc=np.ascontiguousarray(made.grid_rc[order]),
        slide_size_wh=(1344, 1120),
        slide_mpp=0.89,
        spot_diameter_px=112.0,
        thumbnail=np.zeros((10, 12, 3), np.uint8),
        run={"label_transform": LabelTransform().to_dict()},
    )


def test_truth_is_raw_counts_with_the_expected_beside(
    truth_path: Path, made_dataset: MadeDataset
) -> None:
    import anndata

    made = made_dataset.sections[0]
    table = anndata.read_h5ad(truth_path)
    np.testing.assert_array_equal(table.X, made.counts.raw)
    np.testing.assert_allclose(table.layers["expected"], made.counts.expected, rtol=1e-6)
    np.testing.assert_array_equal(table.obs["array_row"], made.grid_rc[:, 0])
    np.testing.assert_array_equal(table.obs["nuclei_tumor"], made.composition.nuclei["tumor"])


def test_who_predicts_the_expected_labels_reaches_the_ceiling(
    truth_path: Path, prediction: Prediction, made_dataset: MadeDataset
) -> None:
    matched = match_truth(prediction, truth_path)
    ceiling = measure_ceiling(made_dataset.sections[0], matched, prediction)
    assert ceiling["prediction_pcc_m"] == pytest.approx(1, abs=1e-5)
    assert ceiling["pcc"] == pytest.approx(measured_beside(matched).pcc.tolist(), abs=1e-5)
    assert 0.4 < ceiling["pcc_m"] < 0.98
    error = np.mean((prediction.expression - matched.labels) ** 2)
    assert ceiling["mse"] == pytest.approx(error, rel=1e-4)


def test_truth_of_other_spots_is_refused(
    truth_path: Path, prediction: Prediction, made_dataset: MadeDataset
) -> None:
    matched = match_truth(prediction, truth_path)
    fewer: Matched = replace(matched, labels=matched.labels[:-1])
    with pytest.raises(ContractError, match="A1: does not hold the predicted spots"):
        measure_ceiling(made_dataset.sections[0], fewer, prediction)
