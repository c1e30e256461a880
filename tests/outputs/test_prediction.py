from dataclasses import replace

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError, ContractError
from triplex_deploy.outputs import Prediction


def test_spot_names_are_column_x_row(prediction: Prediction) -> None:
    assert prediction.spot_names[:7] == ("0x0", "1x0", "2x0", "3x0", "4x0", "5x0", "0x1")


def test_repr_is_one_short_line(prediction: Prediction) -> None:
    assert repr(prediction) == "<Prediction of 'section A': 30 spots, 3 genes>"


def test_select_genes_follows_the_order_asked_for(prediction: Prediction) -> None:
    chosen = prediction.select_genes(["ERBB2", "GNAS"])
    assert chosen.genes == ("ERBB2", "GNAS")
    np.testing.assert_array_equal(chosen.expression, prediction.expression[:, [2, 0]])


def test_select_genes_names_the_unknown_gene(prediction: Prediction) -> None:
    with pytest.raises(ConfigError, match="gene NOPE: it is not predicted"):
        prediction.select_genes(["GNAS", "NOPE"])
    with pytest.raises(ConfigError, match="separate names by commas: GNAS,FASN"):
        prediction.select_genes(["GNAS FASN"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("expression", np.zeros((30, 3)), "expression: float64"),
        ("expression", np.zeros((30, 2), np.float32), r"expected float32 \(30, 3\)"),
        ("level0_xy", np.zeros((29, 2)), "level0_xy"),
        ("grid_rc", np.zeros((30, 2), np.int64), "0x0 more than once"),
        ("thumbnail", np.zeros((8, 8), np.uint8), "thumbnail"),
        ("thumbnail", np.zeros((8, 2001, 3), np.uint8), "thumbnail"),
        ("genes", ("A", "B", "A"), "genes: A more than once"),
        ("slide_mpp", float("nan"), "slide_mpp=nan"),
        ("slide_size_wh", (0, 5), "slide_size_wh"),
        ("slide_name", "a/b", "slide_name"),
        ("barcodes", ("AAA-1",), "barcodes: 1 for 30 spots; give one per spot or none"),
    ],
)
def test_inconsistent_predictions_are_refused(
    prediction: Prediction, field: str, value: object, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        replace(prediction, **{field: value})  # type: ignore[arg-type]
