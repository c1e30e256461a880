"""Check the arrays of a sparse matrix from a file before a library trusts them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import TriplexError


def require_sparse_parts(
    kind: type[TriplexError],
    what: str,
    parts: tuple[int, NDArray[Any], NDArray[Any]],
    shape: tuple[int, int],
) -> None:
    """Check indices and pointers of a compressed sparse matrix against each other and its shape.

    SciPy follows the pointers and indices without looking; wrong ones read and write memory that
    is not the matrix's.

    Args:
        kind: The error to raise.
        what: The file, which begins the message.
        parts: The number n of values, indices (n,) and pointers (rows + 1,).
        shape: Rows and columns; of a CSC matrix, columns and rows.

    Raises:
        TriplexError: ``kind``, if the lengths do not agree, a pointer decreases or an index is
            outside the matrix.
    """
    n_values, indices, pointers = parts
    n_rows, n_columns = shape
    if pointers.ndim != 1 or indices.ndim != 1 or len(pointers) != n_rows + 1:
        raise kind(
            f"{what}: {pointers.size} pointers for {n_rows} rows of a sparse matrix; copy it again"
        )
    if any(array.dtype.kind not in "iu" for array in (indices, pointers)):
        raise kind(f"{what}: indices of its sparse matrix are not whole numbers; copy it again")
    if int(pointers[0]) != 0 or (pointers[1:] < pointers[:-1]).any():
        raise kind(f"{what}: pointers of its sparse matrix decrease; it is damaged, copy it again")
    if not int(pointers[-1]) == len(indices) == n_values:
        raise kind(
            f"{what}: {n_values} values and {len(indices)} indices for the {int(pointers[-1])} "
            "entries of its sparse matrix; it is damaged, copy it again"
        )
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < n_columns):
        wrong = int(indices[np.flatnonzero((indices < 0) | (indices >= n_columns))[0]])
        raise kind(
            f"{what}: index {wrong} is outside its sparse matrix of {n_columns} columns; it is "
            "damaged, copy it again"
        )
