"""Look at an HDF5 file before its numbers are trusted, and read h5ad files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.hdf5_child import claims_too_much, link_outside
from triplex_deploy.files.hdf5_look import look_first_at_hdf5
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.files.sparse_parts import require_sparse_parts

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

OPEN_ELSEWHERE: Final = (
    "open elsewhere or cannot be locked here; close it there, or set "
    "HDF5_USE_FILE_LOCKING=FALSE where the file system has no locks"
)
_NO_HDF5: Final = "signature not found"
"""Text of HDF5 about a file of another kind."""
_LOCKED: Final = re.compile(r"\block\b|already open for (write|read-only)", re.IGNORECASE)
"""Texts of HDF5 about locks; a file that was cut short is said to lack its ``sblock``."""


@contextmanager
def open_hdf5(
    path: Path,
    kind: type[TriplexError],
    what: str,
    remedy: str,
    groups: Sequence[str] | None = None,
) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; every reader of the package does so here.

    A child process reads it first, since the library may hang or crash on damage. Then links,
    sizes and sparse matrices are checked.

    Args:
        path: The file.
        kind: The error to raise.
        what: What the file should be, such as ``h5ad of measured counts``.
        remedy: What the user can do about a damaged file.
        groups: Names of the groups at the top that will be read; None for all.

    Yields:
        The open file. Errors of reading it are the caller's to convert.

    Raises:
        TriplexError: ``kind``, if the file is missing, open elsewhere or damaged; if it takes data
            from other files; if it claims arrays far larger than what it stores; or if indices
            leave a sparse matrix.
    """
    import h5py

    require_regular_file(path, kind, what)
    look_first_at_hdf5(path, kind, groups, remedy)
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # h5py raises errors of several kinds on damage
        if is_open_elsewhere(error):
            raise kind(f"{path}: {OPEN_ELSEWHERE}") from error
        reason = " ".join(str(error).split())
        if _NO_HDF5 in reason:
            raise kind(f"{path}: cannot be read as HDF5, is none; give the right {what}") from error
        raise kind(f"{path}: cannot be read as HDF5 ({reason}); {remedy}") from error
    with file:
        with damage_as(kind, f"{path}: damaged HDF5", remedy):
            _check_groups(path, kind, file, groups)
        yield file


def is_open_elsewhere(error: Exception) -> bool:
    """Return True if h5py failed because another process has the file open or locked."""
    return _LOCKED.search(str(error)) is not None


def read_h5ad(path: Path, kind: type[TriplexError], what: str, remedy: str) -> AnnData:
    """Read an h5ad after the checks of ``open_hdf5``; takes its arguments, raises its errors."""
    import anndata

    with open_hdf5(path, kind, what, remedy):
        pass
    with damage_as(kind, f"{path}: cannot be read as h5ad", remedy):
        return anndata.read_h5ad(path)


def _check_groups(
    path: Path, kind: type[TriplexError], file: h5py.File, groups: Sequence[str] | None
) -> None:
    """Check everything below each group once; links in a circle are not followed again."""
    import h5py

    outside = link_outside(file)
    if outside is not None:
        raise _in_another_file(path, kind, outside)
    chosen = tuple(file if groups is None else (name for name in groups if name in file))
    waiting, seen = [(file, chosen)], set()
    while waiting:
        group, names = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in names:
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((item, tuple(item)))
            elif isinstance(item, h5py.Dataset):
                _check_dataset(path, kind, item)
        _check_sparse(path, kind, group)


def _check_dataset(path: Path, kind: type[TriplexError], data: h5py.Dataset) -> None:
    if data.is_virtual or data.external:
        raise _in_another_file(path, kind, data.name.lstrip("/"))
    if data.shape is not None and claims_too_much(data):
        shape, stored = " x ".join(map(str, data.shape)), data.id.get_storage_size()
        raise kind(
            f"{path}: {data.name} claims {shape} values, but the file stores {stored} bytes for "
            "them; it is damaged, copy it again"
        )


def _in_another_file(path: Path, kind: type[TriplexError], name: str) -> TriplexError:
    return kind(f"{path}: {name} lies in another file; give a file that holds its data")


def _check_sparse(path: Path, kind: type[TriplexError], group: h5py.Group) -> None:
    """Check a matrix as anndata writes it; ``shape`` and the encoding are attributes."""
    encoding = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    if not {"data", "indices", "indptr"} <= set(group) or "cs" not in str(encoding):
        return
    shape: Any = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    rows, columns = map(int, shape)
    if "csc" in str(encoding):
        rows, columns = columns, rows
    parts = (len(group["data"]), group["indices"][:], group["indptr"][:])
    require_sparse_parts(kind, f"{path}: {group.name}", parts, (rows, columns))
