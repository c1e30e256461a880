"""Names of genes, barcodes and slides are harmless in every format."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from triplex_deploy.errors import ContractError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert
from triplex_deploy.outputs.json_file import metadata_text
from triplex_deploy.outputs.report import render_report

FORMULAS = ("=cmd|'/C calc'!A0", "@SUM(1)", "+1")


def test_no_cell_of_a_table_is_a_formula(prediction: Prediction, tmp_path: Path) -> None:
    barcodes = tuple(f'=HYPERLINK("x{spot}")' for spot in range(prediction.n_spots))
    named = replace(prediction, genes=FORMULAS, barcodes=barcodes)
    path = convert(named, "csv", tmp_path / "t.csv")
    rows = list(csv.reader(path.read_text().splitlines()))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+"))]
    assert [cell for cell in rows[0] if cell.startswith("'")] == [f"'{name}" for name in FORMULAS]


def test_ome_xml_parses_whatever_a_gene_is_called(prediction: Prediction, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    named = replace(prediction, genes=("a\x01", "b\uffff", "<c&>"))
    path = convert(named, "ome-tiff", tmp_path / "t.ome.tif")
    with tifffile.TiffFile(path) as file:
        ElementTree.fromstring(file.ome_metadata)


def test_name_that_is_not_utf_8_fits_every_text(prediction: Prediction) -> None:
    named = replace(prediction, run={**prediction.run, "slide": "caf\udce9.tif"})
    text = metadata_text(named)
    text.encode("utf-8")
    assert json.loads(text)["slide"] == "caf\udce9.tif"
    render_report(named).encode("utf-8")


def test_place_beyond_32_bits_is_refused(prediction: Prediction) -> None:
    places = prediction.grid_rc + np.int64(5 * 10**9)
    with pytest.raises(ContractError, match="beyond 2147483647"):
        replace(prediction, grid_rc=places)
