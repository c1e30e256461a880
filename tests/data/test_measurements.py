"""Measurements of one section: the same numbers, whichever file of a lab they come in."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from triplex_deploy.data.measured import Measurements, read_measured
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


def assert_measured(found: Measurements) -> None:
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
    ("name", "message"),
    [
        ("absent.tsv", "no such table of counts"),
        ("absent.h5ad", "no such file of measured"),
        ("", "no spatial/"),
    ],
)
def test_absent_files_are_named(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_measured(folder / name)


def test_missing_value_is_named(folder: Path) -> None:
    """Or counts with one would pass for labels."""
    (folder / "gap.tsv").write_text("\tGNAS\tFASN\n3x4\t1\t2\n3x5\t1\t\n")
    with pytest.raises(DatasetError, match="FASN is no number at spot 3x5"):
        read_measured(folder / "gap.tsv")


def test_repeated_gene_of_a_table_is_added_up(folder: Path) -> None:
    (folder / "twice.tsv").write_text("\tGNAS\tFASN\tGNAS\n3x4\t1\t2\t5\n")
    found = read_measured(folder / "twice.tsv")
    assert found.genes == ("GNAS", "FASN")
    assert found.of(["GNAS", "FASN"]).tolist() == [[6, 2]]


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_any_type_of_number_is_read(folder: Path, dtype: type) -> None:
    table = anndata.read_h5ad(folder / "counts.h5ad")
    table.X = table.X.astype(dtype)
    table.write_h5ad(folder / "typed.h5ad")
    assert_measured(read_measured(folder / "typed.h5ad"))


def test_h5ad_without_values_is_refused(folder: Path) -> None:
    table = anndata.read_h5ad(folder / "counts.h5ad")
    anndata.AnnData(obs=table.obs, var=table.var).write_h5ad(folder / "empty.h5ad")
    with pytest.raises(DatasetError, match="no values in X"):
        read_measured(folder / "empty.h5ad")
