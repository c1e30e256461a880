"""Keep arrays of a prepared section in files: space reserved, sizes checked, content sealed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.npz import read_npz
from triplex_deploy.files.regular import require_regular_file

REMEDY: Final = "run triplex-deploy prepare again"
_NO_RESERVING: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_ZEROS: Final = bytes(1 << 20)


def new_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an ``.npy`` file of zeros and map it.

    Its space is reserved first: writing to a map on a full disk would end the process.

    Raises:
        OSError: The disk has no room, or the file cannot be written.
    """
    path.unlink(missing_ok=True)  # a reader may have mapped the file that was there
    descr = np.lib.format.dtype_to_descr(dtype)
    with path.open("wb") as file:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        file.flush()
        _reserve(file.fileno(), file.tell(), n_bytes)
    return np.lib.format.open_memmap(path, mode="r+")


def has_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Return True if the file's header gives this type and shape and its size fits them.

    NumPy would lengthen a short file with zeros.
    """
    try:
        with damage_as(DatasetError, f"{path}: damaged", REMEDY):
            start, stored_shape, stored_dtype = _header(path)
    except DatasetError:
        return False
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    fits = path.stat().st_size == start + n_bytes
    return fits and stored_shape == shape and stored_dtype == dtype


def open_array(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` file for reading.

    Raises:
        DatasetError: The file is missing or damaged, or its size is not that of its header.
    """
    status = require_regular_file(path, DatasetError, "file of a prepared section")
    with damage_as(DatasetError, f"{path}: damaged", REMEDY):
        start, shape, dtype = _header(path)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if status.st_size != start + n_bytes:
            raise DatasetError(
                f"{path}: {status.st_size} bytes, its header promises {start + n_bytes}; {REMEDY}"
            )
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def read_prepared_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file; their checksums are looked at.

    Raises:
        DatasetError: The file is missing or damaged.
    """
    require_regular_file(path, DatasetError, "file of a prepared section")
    return read_npz(path, DatasetError, "damaged", REMEDY)


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files of a folder by name; raises ``OSError``."""
    return {name: sha256_of(folder / name) for name in names}


def first_altered(folder: Path, sealed: object) -> str | None:
    """Return the first file that is missing or whose digest is not the sealed one, or None.

    Versions up to 0.1.0 sealed nothing; their files pass.
    """
    if not isinstance(sealed, Mapping):
        return None
    for name, digest in sealed.items():
        try:
            if sha256_of(folder / Path(str(name)).name) != digest:
                return str(name)
        except OSError:
            return str(name)
    return None


def _header(path: Path) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Return where the values begin, the shape and the type of an ``.npy`` file."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(file)
        if is_fortran or dtype.hasobject:
            raise ValueError("not an array of this package")
        return file.tell(), shape, dtype


def _reserve(handle: int, start: int, n_bytes: int) -> None:
    """Give a file its full length, with space on the disk."""
    if hasattr(os, "posix_fallocate") and n_bytes:
        try:
            os.posix_fallocate(handle, start, n_bytes)
            return
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise
    os.lseek(handle, start, os.SEEK_SET)
    while n_bytes > 0:
        n_bytes -= os.write(handle, _ZEROS[: min(n_bytes, len(_ZEROS))])
