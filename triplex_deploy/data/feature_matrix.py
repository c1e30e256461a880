"""Space Ranger's counts: the HDF5 file, or the folder with a Matrix Market file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.data.assemble import CountTable
from triplex_deploy.errors import DatasetError

NAME: Final = "filtered_feature_bc_matrix"
GENE_EXPRESSION: Final = "Gene Expression"


def read_feature_matrix(outs: Path) -> CountTable:
    """Gene expression counts, spots x gene symbols, of a Space Ranger output folder.

    Takes ``filtered_feature_bc_matrix.h5`` or, without it, the folder of that name. Features of
    other types, such as antibodies, are left out. Raises ``DatasetError``.
    """
    if (outs / f"{NAME}.h5").is_file():
        return _read_h5(outs / f"{NAME}.h5")
    if (outs / NAME).is_dir():
        return _read_mtx(outs / NAME)
    raise DatasetError(f"{outs}: neither {NAME}.h5 nor the folder {NAME}; copy one there")


def _read_h5(path: Path) -> CountTable:
    import h5py
    from scipy.sparse import csr_array

    try:
        with h5py.File(path) as file:
            matrix = file["matrix"]
            barcodes, symbols, types = (
                [value.decode() for value in matrix[key][:]]
                for key in ("barcodes", "features/name", "features/feature_type")
            )
            # stored as features x barcodes, column by column, which is barcodes x features by row
            parts = (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:])
            counts = csr_array(parts, shape=(len(barcodes), len(symbols)))
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: not a Space Ranger matrix ({error}); copy it again") from error
    return _expression_only(barcodes, symbols, types, counts)


def _read_mtx(folder: Path) -> CountTable:
    from scipy.io import mmread
    from scipy.sparse import csr_array

    features = [line.split("\t") for line in _lines(folder, "features.tsv")]
    barcodes = [line.split("\t")[0] for line in _lines(folder, "barcodes.tsv")]
    path = _either(folder, "matrix.mtx")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            counts = csr_array(mmread(stream).T)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: not a Matrix Market file ({error}); copy it again") from error
    if counts.shape != (len(barcodes), len(features)) or any(len(row) < 2 for row in features):
        raise DatasetError(
            f"{folder}: matrix {counts.shape} for {len(barcodes)} barcodes and {len(features)} "
            "features; copy the three files again"
        )
    types = [row[2] if len(row) > 2 else GENE_EXPRESSION for row in features]
    return _expression_only(barcodes, [row[1] for row in features], types, counts)


def _expression_only(
    barcodes: list[str], symbols: list[str], types: list[str], counts: Any
) -> CountTable:
    kept = np.flatnonzero(np.array(types) == GENE_EXPRESSION)
    genes = tuple(symbols[i] for i in kept)
    return CountTable(tuple(barcodes), genes, counts[:, kept])


def _lines(folder: Path, name: str) -> list[str]:
    path = _either(folder, name)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); copy it again") from error


def _either(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DatasetError(f"{folder}: no {name} or {name}.gz; copy it there")
