"""Read the counts of Space Ranger: the HDF5 file, or the folder with a Matrix Market file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from triplex_deploy.data.assemble import CountTable
from triplex_deploy.data.matrix_market import read_matrix_market
from triplex_deploy.data.names import require_named, require_unique
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.hdf5 import open_hdf5
from triplex_deploy.files.sparse_parts import require_sparse_parts

if TYPE_CHECKING:
    import h5py

NAME: Final = "filtered_feature_bc_matrix"
OLD_NAME: Final = "filtered_gene_bc_matrices"
"""Name up to Cell Ranger 2: a folder of folders, one for each genome."""
GENE_EXPRESSION: Final = "Gene Expression"
OLD_FEATURES: Final = "genes.tsv"
"""Name of the file of features up to Cell Ranger 2; it has no column of types."""
MATRIX: Final = ("matrix.mtx.gz", "matrix.mtx")
"""Names of the file of counts in a folder."""
REMEDY: Final = "copy it again"
MAX_LIST_BYTES: Final = 1 << 28
"""Largest list of names that is read; real lists are far smaller."""


def read_feature_matrix(outs: Path) -> CountTable:
    """Read the counts of gene expression of a Space Ranger output folder.

    Reads ``filtered_feature_bc_matrix.h5`` or, without it, the folder of that name, or what Cell
    Ranger 2 wrote in their place: ``filtered_gene_bc_matrices_h5.h5`` or
    ``filtered_gene_bc_matrices/<genome>``. Features of other types, such as antibodies, are left
    out.

    Args:
        outs: Folder that holds the file or the folder.

    Returns:
        Counts of spots x gene symbols; a symbol may repeat.

    Raises:
        DatasetError: There is none, it is damaged, it holds several genomes, or a barcode or symbol
            is missing.
    """
    for name in (f"{NAME}.h5", f"{OLD_NAME}_h5.h5"):
        if (outs / name).exists():
            return _read_h5(outs / name)
    for name in (NAME, OLD_NAME):
        if (outs / name).is_dir():
            return _read_mtx(_of_one_genome(outs / name))
    raise DatasetError(f"{outs}: neither {NAME}.h5 nor the folder {NAME}; copy one there")


def _read_h5(path: Path) -> CountTable:
    from scipy.sparse import csr_array

    with (
        open_hdf5(path, DatasetError, "Space Ranger matrix", REMEDY) as file,
        damage_as(DatasetError, f"{path}: not a Space Ranger matrix", REMEDY),
    ):
        matrix = file["matrix"] if "matrix" in file else file[_only_genome(path, list(file))]
        barcodes = _names(matrix["barcodes"])
        if "features" in matrix:
            symbols = _names(matrix["features/name"])
            types = _names(matrix["features/feature_type"])
        else:
            symbols = _names(matrix["gene_names"])
            types = [GENE_EXPRESSION] * len(symbols)
        values, indices, pointers = (matrix[key][:] for key in ("data", "indices", "indptr"))
        if len(types) != len(symbols):
            raise DatasetError(
                f"{path}: {len(symbols)} names for {len(types)} types of features; {REMEDY}"
            )
        # The file stores features x barcodes by columns, which equals barcodes x features by rows.
        shape = (len(barcodes), len(symbols))
        require_sparse_parts(DatasetError, str(path), (len(values), indices, pointers), shape)
        counts = csr_array((values, indices, pointers), shape=shape)
    return _expression_only(path, barcodes, symbols, types, counts)


def _names(texts: h5py.Dataset) -> list[str]:
    return [value.decode() for value in texts[:]]


def _of_one_genome(folder: Path) -> Path:
    """Return the folder that holds the matrix: ``folder``, or the only one in it."""
    if any((folder / name).exists() for name in MATRIX):
        return folder
    below = [path.parent.name for name in MATRIX for path in folder.glob(f"*/{name}")]
    return folder / _only_genome(folder, below) if below else folder


def _only_genome(where: Path, names: list[str]) -> str:
    """Return the only name; raise ``DatasetError`` if there is none or several."""
    found = sorted(set(names))
    if len(found) != 1:
        listed = ", ".join(found[:3]) or "none"
        raise DatasetError(
            f"{where}: needs the counts of one genome, found {listed}; keep only those of one"
        )
    return found[0]


def _read_mtx(folder: Path) -> CountTable:
    features_path = _either(folder, "features.tsv", OLD_FEATURES)
    features = [line.split("\t") for line in _lines(features_path)]
    barcodes = [line.split("\t")[0] for line in _lines(_either(folder, "barcodes.tsv"))]
    if all(len(row) == 1 for row in features):  # symbols without ids
        features = [row * 2 for row in features]
    short = next((i for i, row in enumerate(features, 1) if len(row) < 2), None)
    if short is not None:
        raise DatasetError(f"{features_path}: line {short} has no gene symbol; copy it again")
    path = _either(folder, MATRIX[-1])
    counts = read_matrix_market(path, (len(features), len(barcodes))).T.tocsr()
    types = [row[2] if len(row) > 2 else GENE_EXPRESSION for row in features]
    return _expression_only(features_path, barcodes, [row[1] for row in features], types, counts)


def _expression_only(
    path: Path, barcodes: list[str], symbols: list[str], types: list[str], counts: Any
) -> CountTable:
    kept = np.flatnonzero(np.array(types) == GENE_EXPRESSION)
    genes = tuple(symbols[i] for i in kept)
    require_unique(str(path), "barcode", barcodes)
    require_named(str(path), "gene", genes)
    return CountTable(tuple(barcodes), genes, counts[:, kept])


def _lines(path: Path) -> list[str]:
    lines = read_text(path, DatasetError, "list of names", REMEDY, MAX_LIST_BYTES).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _either(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{name}.gz", folder / name):
            if path.exists():
                return path
    raise DatasetError(f"{folder}: no {names[0]} or {names[0]}.gz; copy it there")
