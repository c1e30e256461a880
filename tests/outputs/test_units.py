"""The units are those of the model's label transform, and stand wherever a number is seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import pytest

from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.report import render_report
from triplex_deploy.outputs.units import describe_units, log_base

PAPER: dict[str, Any] = {"library": "panel", "scale": 10000.0, "log": "log10", "smoothing": "3x3"}
WORDS = "log10(1 + 10,000 × share of the counts of the model's genes), mean of 3 × 3 spots"


@pytest.fixture
def with_units(prediction: Prediction) -> Prediction:
    return replace(prediction, run={**prediction.run, "label_transform": PAPER})


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (PAPER, WORDS),
        (
            {**PAPER, "library": "all", "log": "ln", "smoothing": "none"},
            "ln(1 + 10,000 × share of all counts)",
        ),
        (
            {**PAPER, "scale": 0.5, "log": "none", "smoothing": "hex"},
            "0.5 × share of the counts of the model's genes, mean of a spot and the six around it",
        ),
        ({"library": "none", "scale": 1.0, "log": "none", "smoothing": "none"}, "counts"),
        ({}, ""),
        (None, ""),
    ],
)
def test_a_label_transform_in_words(transform: object, words: str) -> None:
    assert describe_units(transform) == words


@pytest.mark.parametrize(
    ("transform", "base"),
    [(PAPER, 10.0), ({"log": "ln"}, 2.718281828459045), ({"log": "none"}, None), (None, None)],
)
def test_the_base_of_the_logarithm(transform: object, base: float | None) -> None:
    assert log_base(transform) == base


def test_units_in_the_h5ad(with_units: Prediction, tmp_path: Path) -> None:
    with_units.write_h5ad(tmp_path / "a.h5ad")
    table = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert table.uns["triplex"]["units"] == WORDS
    assert table.uns["log1p"] == {"base": 10.0}
    assert read_prediction(tmp_path / "a.h5ad").units == WORDS


def test_scanpy_is_told_of_no_logarithm_where_none_is_known(prediction: Prediction) -> None:
    uns = prediction.to_anndata().uns
    assert uns["triplex"]["units"] == ""
    assert "log1p" not in uns


def test_units_in_the_files_of_other_programs(with_units: Prediction, tmp_path: Path) -> None:
    from pyarrow import parquet

    tifffile = pytest.importorskip("tifffile")
    path = convert(with_units, "parquet", tmp_path / "a.parquet")
    schema = parquet.read_schema(path)
    assert schema.field("GNAS").metadata[b"units"] == WORDS.encode()
    assert schema.field("array_row").metadata is None
    assert json.loads(schema.metadata[b"triplex-deploy"])["units"] == WORDS
    assert b"pandas" in schema.metadata
    path = convert(with_units, "geojson", tmp_path / "a.geojson")
    assert json.loads(path.read_text(encoding="utf-8"))["triplex-deploy"]["units"] == WORDS
    path = convert(with_units, "ome-tiff", tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as file:
        assert f"<Description>{WORDS}</Description>" in file.ome_metadata


def test_units_stand_at_the_color_scale_of_the_report(with_units: Prediction) -> None:
    from html import unescape

    page = unescape(render_report(with_units))
    assert f'<span class="units">{WORDS}</span>' in page
    assert f"Values are {WORDS}." in page


def test_a_report_says_where_units_are_not_recorded(prediction: Prediction) -> None:
    from html import unescape

    assert '<span class="units">units of the model\'s training data</span>' in unescape(
        render_report(prediction)
    )
