from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert

PLACE = ["spot", "array_row", "array_col", "level0_x_px", "level0_y_px"]


def test_csv_reads_back_to_the_same_numbers(prediction: Prediction, tmp_path: Path) -> None:
    prediction.expression[4, 1] = np.nan
    table = pd.read_csv(convert(prediction, "csv", tmp_path / "a.csv"))
    assert list(table) == [*PLACE, "GNAS", "FASN", "ERBB2"]
    assert table[PLACE].iloc[13].to_list() == ["1x2", 2, 1, 748.5, 1156.0]
    values = table[["GNAS", "FASN", "ERBB2"]].to_numpy(np.float32)
    np.testing.assert_array_equal(values, prediction.expression)


def test_parquet_reads_back_with_types_and_facts(prediction: Prediction, tmp_path: Path) -> None:
    from pyarrow import parquet

    path = convert(prediction, "parquet", tmp_path / "a.parquet", genes=["FASN"])
    table = pd.read_parquet(path)
    assert table.dtypes["FASN"] == np.float32
    assert table.dtypes["array_row"] == np.int64
    np.testing.assert_array_equal(table["FASN"], prediction.expression[:, 1])
    np.testing.assert_array_equal(table[["level0_x_px", "level0_y_px"]], prediction.level0_xy)
    facts = parquet.read_schema(path).metadata[b"triplex-deploy"]
    assert b'"slide_mpp": 0.25' in facts
    assert b'"bundle_id": "sha256:0f3a"' in facts


def test_barcodes_follow_the_coordinates(prediction: Prediction, tmp_path: Path) -> None:
    barcodes = tuple(f"ACGT{spot:02}-1" for spot in range(30))
    path = convert(replace(prediction, barcodes=barcodes), "csv", tmp_path / "a.csv")
    table = pd.read_csv(path)
    assert list(table)[5:7] == ["barcode", "GNAS"]
    assert table["barcode"][29] == "ACGT29-1"


def test_a_gene_named_like_a_coordinate_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    clashing = replace(prediction, genes=("GNAS", "spot", "ERBB2"))
    with pytest.raises(OutputError, match="gene spot: a table has a column of this name; leave"):
        convert(clashing, "csv", tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []
