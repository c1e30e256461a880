"""Keep the features of a section on disk while they are computed.

An interrupted run goes on with what is done.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX, Neighborhood
from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import exists, has_keys, is_ours, require_no_link
from triplex_deploy.training.array_files import has_array, new_array

FEATURES: Final = "features.npy"
"""Features (T, F) of the tiles."""
TARGETS: Final = "tiles.npy"
"""Target tiles (N, 224, 224, 3) of the spots."""
DONE: Final = "done.npy"
"""True for each of the T tiles that is encoded."""
PARTIAL: Final = "partial.json"
"""Marks an unfinished section, with the key of its features."""
SECTION_FILE: Final = "section.json"
"""Metadata of a finished section."""
OWN_FILES: Final = (FEATURES, TARGETS, DONE, PARTIAL, "plan.npz", "measured.npz", SECTION_FILE)
"""Names of all files of a section."""
CACHE_VERSION: Final = 1
"""To be raised when the same inputs give other features."""


def feature_key(
    slide_sha256: str,
    encoder_digest: str,
    slide_mpp: float,
    tile_mpp: float,
    level0_xy: NDArray[np.float64],
    neighborhood: Neighborhood,
) -> str:
    """Return the key of the features of a section, equal if all that decides them is equal.

    Args:
        slide_sha256: Digest of the slide.
        encoder_digest: Digest of the tile encoder and its precision.
        slide_mpp: Microns per level-0 pixel.
        tile_mpp: Microns per pixel of the tiles.
        level0_xy: Spot centers (N, 2) in level-0 pixels.
        neighborhood: Which tiles are neighbors. The default leaves the key as in versions that had
            no other neighborhood.
    """
    digest = hashlib.sha256()
    scales = (repr(slide_mpp), repr(tile_mpp))
    apart = neighborhood.recorded().values()
    decisive = (CACHE_VERSION, slide_sha256, encoder_digest, *scales, *apart)
    digest.update("|".join(map(str, decisive)).encode())
    digest.update(np.ascontiguousarray(level0_xy, np.float64).tobytes())
    return digest.hexdigest()


def is_claimed(folder: Path) -> bool:
    """Return True if a folder is that of a section, finished or not."""
    return any(
        exists(folder / name) and is_ours(folder / name, has_keys("key"))
        for name in (PARTIAL, SECTION_FILE)
    )


def claim_section(folder: Path) -> None:
    """Make the folder of a section and mark it before anything else is written into it.

    Raises:
        OutputError: A link, or a file that this package did not write, has a name of ``OWN_FILES``.
        OSError: The folder cannot be written.
    """
    require_no_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in OWN_FILES:
        require_no_link(folder / name)
    is_own = is_claimed(folder)
    for name in OWN_FILES:
        if not is_own and exists(folder / name):
            raise OutputError(
                f"{folder / name}: is not of a prepared section; choose another --out to keep it"
            )
    if not exists(folder / PARTIAL):
        _mark(folder / PARTIAL, "")


class FeatureFile:
    """Fills the memory-mapped arrays of a section tile by tile; made by ``FeatureFile.open``."""

    def __init__(
        self,
        folder: Path,
        features: NDArray[np.float32],
        targets: NDArray[np.uint8],
        done: NDArray[np.bool_],
    ) -> None:
        self.folder = folder
        self.features = features  # (T, F)
        self.targets = targets  # (N, 224, 224, 3)
        self._done = done  # (T,)

    @classmethod
    def open(cls, folder: Path, key: str, n_tiles: int, n_spots: int, dim: int) -> FeatureFile:
        """Open the files of a section, or make new files.

        Args:
            folder: Folder of the section.
            key: Key of the features, see ``feature_key``. Files of another key, and files that are
                damaged or missing, are made anew.
            n_tiles: Number T of tiles.
            n_spots: Number N of spots.
            dim: Features per tile.

        Raises:
            OSError: The disk has no room for the files.
            OutputError: The folder holds files that this package did not write.
        """
        marker = folder / PARTIAL
        wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            FEATURES: (np.dtype(np.float32), (n_tiles, dim)),
            TARGETS: (np.dtype(np.uint8), (n_spots, TILE_PX, TILE_PX, 3)),
            DONE: (np.dtype(np.bool_), (n_tiles,)),
        }
        goes_on = _read_key(marker) == key and all(
            has_array(folder / name, dtype, shape) for name, (dtype, shape) in wanted.items()
        )
        if goes_on:
            arrays = [np.lib.format.open_memmap(folder / name, mode="r+") for name in wanted]
        else:
            claim_section(folder)
            _mark(marker, "")
            arrays = [
                new_array(folder / name, dtype, shape) for name, (dtype, shape) in wanted.items()
            ]
        _mark(marker, key)
        return cls(folder, arrays[0], arrays[1], arrays[2])

    @property
    def missing(self) -> NDArray[np.int64]:
        """Return the indices of the tiles that are not encoded yet."""
        return np.flatnonzero(~self._done)

    def put(
        self,
        tile_index: NDArray[np.int64],
        features: NDArray[np.float32],
        spots: NDArray[np.int64],
        tiles: NDArray[np.uint8],
    ) -> None:
        """Store features, and the pixels of target tiles, and mark the tiles as encoded.

        Args:
            tile_index: Indices (B,) of tiles.
            features: Their features (B, F).
            spots: Indices (K,) of spots with a target tile among these tiles.
            tiles: Target tiles (K, 224, 224, 3) of these spots.
        """
        self.features[tile_index] = features
        self.targets[spots] = tiles
        self._done[tile_index] = True

    def flush(self) -> None:
        """Write changed pages of the arrays to the disk."""
        for array in (self.features, self.targets):
            if isinstance(array, np.memmap):
                array.flush()

    def forget_progress(self) -> None:
        """Remove the marks of an unfinished section."""
        (self.folder / PARTIAL).unlink(missing_ok=True)
        (self.folder / DONE).unlink(missing_ok=True)


def _mark(marker: Path, key: str) -> None:
    with atomic_path(marker) as temporary:
        temporary.write_text(json.dumps({"key": key}), encoding="utf-8")


def _read_key(marker: Path) -> str | None:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("key") if isinstance(content, dict) else None
