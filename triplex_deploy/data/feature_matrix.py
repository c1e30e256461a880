"""Space Ranger's counts: the HDF5 file, or the folder with a Matrix Market file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.data.assemble import CountTable
from triplex_deploy.data.matrix_market import read_matrix_market
from triplex_deploy.data.names import require_named, require_unique
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.hdf5 import require_sound_hdf5
from triplex_deploy.files.sparse_parts import require_sparse_parts

NAME: Final = "filtered_feature_bc_matrix"
GENE_EXPRESSION: Final = "Gene Expression"
OLD_FEATURES: Final = "genes.tsv"
"""Name of the features up to Cell Ranger 2; the file has no types."""
REMEDY: Final = "copy it again"
MAX_LIST_BYTES: Final = 1 << 28
"""Far more than names of genes or spots take."""


def read_feature_matrix(outs: Path) -> CountTable:
    """Read the counts of gene expression of a Space Ranger output folder.

    Takes ``filtered_feature_bc_matrix.h5`` or, without it, the folder of that name. Features of
    other types, such as antibodies, are left out.

    Args:
        outs: The folder that holds one of them.

    Returns:
        Counts of spots x gene symbols; a symbol may be there more than once.

    Raises:
        DatasetError: There is neither, it is damaged, or a barcode or symbol is missing.
    """
    if (outs / f"{NAME}.h5").is_file():
        return _read_h5(outs / f"{NAME}.h5")
    if (outs / NAME).is_dir():
        return _read_mtx(outs / NAME)
    raise DatasetError(f"{outs}: neither {NAME}.h5 nor the folder {NAME}; copy one there")


def _read_h5(path: Path) -> CountTable:
    import h5py
    from scipy.sparse import csr_array

    require_sound_hdf5(path, DatasetError, "Space Ranger matrix", REMEDY)
    with damage_as(DatasetError, f"{path}: not a Space Ranger matrix", REMEDY):
        with h5py.File(path) as file:
            matrix = file["matrix"]
            barcodes, symbols, types = (
                [value.decode() for value in matrix[key][:]]
                for key in ("barcodes", "features/name", "features/feature_type")
            )
            values, indices, pointers = (matrix[key][:] for key in ("data", "indices", "indptr"))
        if len(types) != len(symbols):
            raise DatasetError(
                f"{path}: {len(symbols)} names for {len(types)} types of features; {REMEDY}"
            )
        # Stored as features x barcodes, column by column, which is barcodes x features by row.
        shape = (len(barcodes), len(symbols))
        require_sparse_parts(DatasetError, str(path), (len(values), indices, pointers), shape)
        counts = csr_array((values, indices, pointers), shape=shape)
    return _expression_only(path, barcodes, symbols, types, counts)


def _read_mtx(folder: Path) -> CountTable:
    features_path = _either(folder, "features.tsv", OLD_FEATURES)
    features = [line.split("\t") for line in _lines(features_path)]
    barcodes = [line.split("\t")[0] for line in _lines(_either(folder, "barcodes.tsv"))]
    short = next((i for i, row in enumerate(features, 1) if len(row) < 2), None)
    if short is not None:
        raise DatasetError(f"{features_path}: line {short} has no gene symbol; copy it again")
    path = _either(folder, "matrix.mtx")
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
            if path.is_file():
                return path
    raise DatasetError(f"{folder}: no {names[0]} or {names[0]}.gz; copy it there")
