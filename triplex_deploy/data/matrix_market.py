"""Read Matrix Market files, and check the header before any value.

SciPy's reader can crash the process on a damaged file, so pandas reads the columns here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import is_packed, open_unpacked
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file

REMEDY: Final = "copy it again"
MAX_LINE: Final = 10_000
"""Longest line of a header or comment that is read."""
MAX_COMMENTS: Final = 1000
"""Most lines of comments before the sizes."""
MAX_ENTRY_BYTES: Final = 80
"""Longest line of an entry, in bytes."""
MAX_BODY_BYTES: Final = 1 << 32
"""Largest size of all entries, in bytes."""
MIN_ENTRY_BYTES: Final = 4
"""Shortest line of an entry, in bytes: ``1 1`` and the end of the line."""
MAX_GZIP_RATIO: Final = 1032
"""Largest factor by which gzip can compress."""


def read_matrix_market(path: Path, shape: tuple[int, int]) -> Any:
    """Read a Matrix Market file of counts as a SciPy CSR array.

    Args:
        path: The file, also gzip.
        shape: The rows and columns that it must have.

    Returns:
        The matrix, ``shape``, float64; entries that repeat are added up.

    Raises:
        DatasetError: The file is missing or damaged, its header is not of this kind or shape, or an
            entry lies outside the matrix.
    """
    status = require_regular_file(path, DatasetError, "Matrix Market file")
    with (
        damage_as(DatasetError, f"{path}: not a Matrix Market file", REMEDY),
        open_unpacked(path) as stream,
    ):
        limit = status.st_size * (MAX_GZIP_RATIO if is_packed(path) else 1)
        kind, n_entries = _read_header(path, stream, shape)
        shortest = MIN_ENTRY_BYTES if kind == "coordinate" else 2
        if n_entries * shortest > limit + 2 or n_entries > shape[0] * shape[1]:
            raise DatasetError(
                f"{path}: its header promises {n_entries} entries, more than the file or matrix "
                f"can hold; {REMEDY}"
            )
        longest = min(n_entries * MAX_ENTRY_BYTES + MAX_LINE, MAX_BODY_BYTES)
        body = stream.read(longest + 1)
        if len(body) > longest:
            raise DatasetError(f"{path}: longer than its {n_entries} entries can be; {REMEDY}")
        if b"\0" in body:
            raise DatasetError(f"{path}: not a Matrix Market file, a byte of it is zero; {REMEDY}")
        if kind == "array":
            return _read_array(path, body, shape)
        return _read_coordinates(path, body, shape, n_entries)


def _read_header(path: Path, stream: IO[bytes], shape: tuple[int, int]) -> tuple[str, int]:
    """Return the layout and the number of entries, and leave the stream at the first entry."""
    words = stream.readline(MAX_LINE).decode("utf-8-sig").lower().split()
    known = len(words) == 5 and words[:2] == ["%%matrixmarket", "matrix"]
    if not (
        known
        and words[2] in ("coordinate", "array")
        and words[3] in ("integer", "real")
        and words[4] == "general"
    ):
        raise DatasetError(
            f"{path}: does not begin with '%%MatrixMarket matrix coordinate integer general'; "
            f"{REMEDY}"
        )
    for _ in range(MAX_COMMENTS):
        line = stream.readline(MAX_LINE)
        if not line or (line.strip() and not line.lstrip().startswith(b"%")):
            break
    sizes = [int(word) for word in line.split()]
    if len(sizes) != (3 if words[2] == "coordinate" else 2) or tuple(sizes[:2]) != shape:
        raise DatasetError(
            f"{path}: its header gives {' x '.join(map(str, sizes)) or 'no size'}; the files "
            f"beside it list {shape[0]} features and {shape[1]} barcodes; copy the three files "
            "again"
        )
    return words[2], sizes[2] if words[2] == "coordinate" else shape[0] * shape[1]


def _read_coordinates(path: Path, body: bytes, shape: tuple[int, int], n_entries: int) -> Any:
    import pandas as pd
    from scipy.sparse import coo_array

    if not body.strip():
        table = pd.DataFrame({"row": [], "column": [], "value": []})
    else:
        table = pd.read_csv(
            io.BytesIO(body),
            sep=r"\s+",
            header=None,
            names=["row", "column", "value"],
            index_col=False,
            dtype={"row": np.int64, "column": np.int64, "value": np.float64},
        )
    if len(table) != n_entries:
        raise DatasetError(
            f"{path}: its header promises {n_entries} entries, and there are {len(table)}; {REMEDY}"
        )
    values = table["value"].to_numpy(np.float64)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values))) + 1
        raise DatasetError(f"{path}: entry {first} has no value; {REMEDY}")
    rows = _indices(path, table["row"].to_numpy(np.int64), shape[0])
    columns = _indices(path, table["column"].to_numpy(np.int64), shape[1])
    return coo_array((values, (rows, columns)), shape).tocsr()


def _indices(path: Path, listed: NDArray[np.int64], limit: int) -> NDArray[np.int32]:
    if len(listed) and not (listed.min() >= 1 and listed.max() <= limit):
        wrong = int(listed[(listed < 1) | (listed > limit)][0])
        raise DatasetError(f"{path}: entry {wrong} lies outside 1 to {limit}; {REMEDY}")
    return (listed - 1).astype(np.int32)


def _read_array(path: Path, body: bytes, shape: tuple[int, int]) -> Any:
    import pandas as pd
    from scipy.sparse import csr_array

    frame = pd.read_csv(io.BytesIO(body), sep=r"\s+", header=None, names=["value"], index_col=False)
    values = frame["value"].to_numpy(np.float64)
    if values.size != shape[0] * shape[1]:
        raise DatasetError(f"{path}: {values.size} values for {shape[0]} x {shape[1]}; {REMEDY}")
    return csr_array(values.reshape(shape, order="F"))
