"""Open Zarr arrays so that each Blosc chunk is checked before it is decoded.

Blosc trusts the length in its header: of a chunk that was cut short it reads what lies behind in
memory, which gives wrong pixels or ends the process.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any, Final

from triplex_deploy.slides.zarr_metadata import MAX_CHUNK_BYTES

CHECKED: Final = "triplex_deploy.blosc"
"""Name of the codec that checks first, beside the name ``blosc``, which stays as it is."""
DESCRIPTIONS: Final = (".zarray", ".zattrs", "zarr.json")
"""Files of an array that are no chunks."""
HEADER: Final = struct.Struct("<4B3I")
"""Version, version of the compressor, flags, bytes of an item; bytes of pixels, block and chunk."""


def open_checked(folder: Path) -> Any:
    """Return the ``zarr.Array`` of a folder, for reading.

    Raises:
        ImportError: The package zarr is not installed.
    """
    import zarr

    _register_codec()
    opened = zarr.open_array(folder, mode="r")
    description = _with_checked(opened.metadata.to_dict())
    return zarr.Array(zarr.AsyncArray(description, opened.store_path))


def require_whole(header: Any, n_bytes: int) -> None:
    """Raise ``ValueError`` if a Blosc chunk is not as long as its header says, or too large.

    Args:
        header: The chunk, or at least its first 16 bytes.
        n_bytes: Length of the chunk.
    """
    if n_bytes < HEADER.size:
        raise ValueError(f"a Blosc chunk has {n_bytes} bytes, less than its header")
    *_, n_decoded, _, n_stored = HEADER.unpack_from(header)
    if n_stored != n_bytes:
        raise ValueError(f"a Blosc chunk has {n_bytes} bytes, its header says {n_stored}")
    if n_decoded > MAX_CHUNK_BYTES:
        raise ValueError(f"a Blosc chunk decodes to {n_decoded} bytes, over {MAX_CHUNK_BYTES}")


def require_whole_chunks(folder: Path) -> None:
    """Check the header of each chunk of an array without shards, whose last codec is Blosc.

    Raises:
        ValueError: A chunk is not as long as its header says, or too large.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in DESCRIPTIONS:
            with path.open("rb") as file:
                header = file.read(HEADER.size)
            try:
                require_whole(header, path.stat().st_size)
            except ValueError as error:
                raise ValueError(f"{path.relative_to(folder)}: {error}") from error


def _with_checked(value: Any) -> Any:
    """Return a copy of an array's description in which the codec that checks replaces Blosc."""
    if isinstance(value, dict):
        changed = {
            key: part if key == "attributes" else _with_checked(part) for key, part in value.items()
        }
        for key in ("id", "name"):  # of Zarr 2 and 3
            if changed.get(key) == "blosc":
                changed[key] = CHECKED
        return changed
    return [_with_checked(part) for part in value] if isinstance(value, list | tuple) else value


@cache
def _register_codec() -> None:
    """Tell numcodecs (Zarr 2) and zarr (Zarr 3) of the codec that checks."""
    import numcodecs
    from zarr.codecs import BloscCodec
    from zarr.registry import register_codec

    class CheckedBlosc(numcodecs.Blosc):  # type: ignore[misc]
        codec_id = CHECKED

        def decode(self, buf: Any, out: Any = None) -> Any:
            require_whole(buf, memoryview(buf).nbytes)
            return super().decode(buf, out)

    class CheckedBloscCodec(BloscCodec):
        @classmethod
        def from_dict(cls, data: dict[str, Any]) -> CheckedBloscCodec:
            return cls(**data.get("configuration", {}))

        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            require_whole(chunk_bytes.as_numpy_array(), len(chunk_bytes))
            return await super()._decode_single(chunk_bytes, chunk_spec)

    numcodecs.register_codec(CheckedBlosc)
    register_codec(CHECKED, CheckedBloscCodec)
