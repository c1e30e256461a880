"""The reliability of genes in the h5ad, the report and every table."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.test_reliability import reliability
from triplex_deploy.errors import ContractError, OutputError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert
from triplex_deploy.outputs.h5ad import read_prediction, write_h5ad
from triplex_deploy.outputs.origin import origin
from triplex_deploy.outputs.report import render_report
from triplex_deploy.reliability import COLUMNS


@pytest.fixture
def measured_genes(prediction: Prediction) -> Prediction:
    return replace(prediction, reliability=reliability())


def report_genes(html: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    genes: dict[str, Any] = json.loads(found[1])["genes"]
    return genes


def test_var_has_a_column_for_each_number(measured_genes: Prediction) -> None:
    var = measured_genes.to_anndata().var
    assert list(var) == [*COLUMNS, "heldout"]
    np.testing.assert_allclose(var["heldout_pcc"], [0.5, 0.1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(var["pcc_ceiling"], [0.9, 0.4, np.nan], rtol=1e-6)
    assert list(var["heldout"]) == ["supported", "not supported", "not supported"]


def test_h5ad_is_read_as_it_was_written(measured_genes: Prediction, tmp_path: Path) -> None:
    write_h5ad(measured_genes, tmp_path / "a.h5ad")
    again = read_prediction(tmp_path / "a.h5ad").reliability
    assert again is not None
    for name, array in reliability().arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    last = measured_genes.select_genes(["ERBB2", "GNAS"]).reliability
    assert last is not None
    np.testing.assert_array_equal(last.rmse, reliability().rmse[[2, 0]])


def test_a_model_without_has_no_columns_and_says_so(prediction: Prediction, tmp_path: Path) -> None:
    table = prediction.to_anndata()
    assert list(table.var) == []
    assert table.uns["triplex"]["heldout"] == {"measured": False}
    write_h5ad(prediction, tmp_path / "a.h5ad")
    assert read_prediction(tmp_path / "a.h5ad").reliability is None
    assert origin(prediction)["heldout"] == {"measured": False}
    html = render_report(prediction)
    assert "How reliable each gene is was not measured for this model." in html
    assert "heldout" not in report_genes(html)


def test_altered_numbers_are_refused(measured_genes: Prediction, tmp_path: Path) -> None:
    table = measured_genes.to_anndata()
    table.var["heldout_pcc"] = np.array([7, 0.1, np.nan], np.float32)
    table.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(OutputError, match=r"altered since it was written.*out of range"):
        read_prediction(tmp_path / "a.h5ad")


def test_numbers_of_other_genes_are_refused(prediction: Prediction) -> None:
    with pytest.raises(ContractError, match="reliability: of 2 genes; give it of 3"):
        replace(prediction, reliability=reliability().select(np.array([0, 1])))


def test_report_sorts_by_it_and_names_unsupported_genes(measured_genes: Prediction) -> None:
    html = render_report(measured_genes)
    genes = report_genes(html)
    assert genes["heldout"] == [0.5, 0.1, None]
    assert genes["heldout_low"] == [0.3, -0.1, None]
    assert genes["ceiling"] == [0.9, 0.4, None]
    assert genes["supported"] == [True, False, False]
    columns = re.findall(r'data-column="(\w+)"', html.split("<script")[0])
    assert columns == ["names", "heldout", "ceiling", "moran"]  # sorted by the first number
    assert "at 346 spots that the model" in html
    assert "not supported" in html


def test_table_of_genes_begins_with_the_most_reliable(
    measured_genes: Prediction, prediction: Prediction, tmp_path: Path
) -> None:
    reordered = measured_genes.select_genes(["ERBB2", "FASN", "GNAS"])
    convert(reordered, "genes", tmp_path / "a.genes.csv")
    table = pd.read_csv(tmp_path / "a.genes.csv")
    assert table["gene"].tolist() == ["GNAS", "FASN", "ERBB2"]
    assert table["heldout"].tolist() == ["supported", "not supported", "not supported"]
    np.testing.assert_allclose(table["heldout_pcc_low"], [0.3, -0.1, np.nan], rtol=1e-5)
    mean = prediction.expression.astype(float).mean(axis=0)
    np.testing.assert_allclose(table["mean"], mean, atol=1e-5)
    convert(prediction, "genes", tmp_path / "b.genes.csv")
    table = pd.read_csv(tmp_path / "b.genes.csv")
    assert table["heldout"].tolist() == ["not measured"] * 3
    assert table["heldout_pcc"].isna().all()
    assert table["gene"].tolist() == list(prediction.genes)


def test_other_files_carry_it_as_metadata(measured_genes: Prediction, tmp_path: Path) -> None:
    assert origin(measured_genes)["heldout"]["heldout_pcc"] == [0.5, 0.1, None]
    from pyarrow import parquet

    convert(measured_genes, "parquet", tmp_path / "a.parquet")
    metadata = parquet.read_schema(tmp_path / "a.parquet").field("FASN").metadata
    assert metadata[b"heldout"] == b"not supported"
    assert metadata[b"heldout_pcc"] == b"0.1"
