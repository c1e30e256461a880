"""Measurements of one section: the same numbers, whichever file of a lab they come in."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from triplex_deploy.data.measured import Measured, read_measured
from triplex_deploy.errors import DatasetError

GENES = ("GNAS", "TBCE")
GRID_RC = [[0, 0], [0, 2], [0, 4], [1, 1]]
COUNTS = [[2, 1], [1, 1], [0, 4], [5, 1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spots of ``outs`` as an h5ad and as tables."""
    obs = pd.DataFrame(GRID_RC, columns=["array_row", "array_col"], index=list("abcd"))
    var = pd.DataFrame(index=list(GENES))
    anndata.AnnData(np.array(COUNTS, np.float32), obs, var).write_h5ad(tmp_path / "counts.h5ad")
    ids = [f"{col}x{row}" for row, col in GRID_RC]
    text = pd.DataFrame(COUNTS, ids, GENES).to_csv(sep="\t")
    (tmp_path / "counts.tsv").write_text(text)
    (tmp_path / "counts.tsv.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def assert_measured(found: Measured) -> None:
    assert found.genes == GENES
    assert found.grid_rc.tolist() == GRID_RC
    assert found.of(["TBCE", "GNAS"]).tolist() == [row[::-1] for row in COUNTS]
    assert found.library.tolist() == [3, 2, 4, 6]
    assert found.row_of["4x0"] == 2
    assert found.are_counts


@pytest.mark.parametrize("name", ["counts.h5ad", "counts.tsv", "counts.tsv.gz"])
def test_file_is_read(folder: Path, name: str) -> None:
    assert_measured(read_measured(folder / name))


def test_space_ranger_folder_is_read(outs: Path) -> None:
    assert_measured(read_measured(outs))


def test_fractions_are_no_counts(folder: Path) -> None:
    table = anndata.read_h5ad(folder / "counts.h5ad")
    table.X = table.X + 0.5
    table.write_h5ad(folder / "labels.h5ad")
    assert not read_measured(folder / "labels.h5ad").are_counts


def test_ids_that_are_no_places_are_named(folder: Path) -> None:
    (folder / "named.tsv").write_text("\tGNAS\n0x0\t1\nAAAC-1\t2\n")
    with pytest.raises(DatasetError, match="spot 'AAAC-1' is not COLUMNxROW"):
        read_measured(folder / "named.tsv")


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent.tsv", "no such file"), ("absent.h5ad", "not a readable h5ad"), ("", "no spatial/")],
)
def test_absent_files_are_named(folder: Path, name: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_measured(folder / name)
