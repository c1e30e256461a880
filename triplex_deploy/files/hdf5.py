"""Look at an HDF5 file before its numbers are trusted, and read h5ad files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.files.sparse_parts import require_sparse_parts

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

MAX_UNPACKED_RATIO: Final = 5000
"""gzip reaches about 1000 to 1; a larger ratio is a shape without its data."""
SMALL_BYTES: Final = 1 << 26
"""Arrays up to this size are read whatever the file stores for them."""
OPEN_ELSEWHERE: Final = (
    "open elsewhere or cannot be locked here; close it there, or set "
    "HDF5_USE_FILE_LOCKING=FALSE where the file system has no locks"
)
_LOCK_WORDS: Final = ("lock", "already open for write", "already open for read-only")


def read_h5ad(path: Path, kind: type[TriplexError], what: str, remedy: str) -> AnnData:
    """Read an h5ad after ``require_sound_hdf5``.

    Args:
        path: The file.
        kind: The error to raise.
        what: What the file should be, such as ``h5ad of measured counts``.
        remedy: What the user can do about a damaged file.

    Returns:
        The whole content.

    Raises:
        TriplexError: ``kind``, if the file is missing, open elsewhere, damaged, or its arrays do
            not fit together.
    """
    import anndata

    require_sound_hdf5(path, kind, what, remedy)
    with damage_as(kind, f"{path}: cannot be read as h5ad", remedy):
        return anndata.read_h5ad(path)


def require_sound_hdf5(path: Path, kind: type[TriplexError], what: str, remedy: str) -> None:
    """Check links, sizes and sparse matrices of an HDF5 file.

    Raises:
        TriplexError: ``kind``, if the file is missing, open elsewhere or damaged; if it takes data
            from other files; if it claims arrays far larger than what it stores; or if indices
            leave a sparse matrix.
    """
    import h5py

    require_regular_file(path, kind, what)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if any(word in str(error).lower() for word in _LOCK_WORDS):
            raise kind(f"{path}: {OPEN_ELSEWHERE}") from error
        reason = " ".join(str(error).split())
        raise kind(f"{path}: cannot be read as HDF5 ({reason}); {remedy}") from error
    with damage_as(kind, f"{path}: damaged HDF5", remedy), file:
        _check_group(path, kind, file)


def _check_group(path: Path, kind: type[TriplexError], root: h5py.Group) -> None:
    """Check everything below ``root`` once; a group that is linked in a circle is not repeated."""
    import h5py

    waiting, seen = [root], set()
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise kind(f"{path}: {name} lies in another file; give a file that holds its data")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_dataset(path, kind, item)
        _check_sparse(path, kind, group)


def _check_dataset(path: Path, kind: type[TriplexError], data: h5py.Dataset) -> None:
    if data.is_virtual or data.external:
        raise kind(f"{path}: {data.name} lies in another file; give a file that holds its data")
    if data.shape is None:
        return
    stored = data.id.get_storage_size()
    if data.nbytes > max(SMALL_BYTES, MAX_UNPACKED_RATIO * stored):
        shape = " x ".join(map(str, data.shape))
        raise kind(
            f"{path}: {data.name} claims {shape} values, but the file stores {stored} bytes for "
            "them; it is damaged, copy it again"
        )


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
