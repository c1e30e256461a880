"""Keep tile features on disk, for an interrupted run or for another model.

The features of a slide are in a folder with a name that depends on everything that affects them:
the slide's content, the scale, the tile encoder's graph and the runtime. Each file in it holds
the origins and features of some tiles with a digest of them, and is written atomically, so a
process may be killed at any time, and several processes may fill one folder. Nothing is written
once the slide has been replaced.

Files are signed by the installation that wrote them, and only its own are used, unless the cache is
shared on purpose.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import OutputError, SlideError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.files.signed import is_signed, signature
from triplex_deploy.runtime.model import Model
from triplex_deploy.tiles.view import SlideView

VERSION: Final = 1
"""Increase it when the same inputs give other features."""
EVERY_S: Final = 5.0
"""Seconds between writes: the work that is lost if the process is killed."""

_OWN_NAME: Final = re.compile(r"\d{20}-[0-9a-f]{8}\.npz")
"""Names of the files that this module writes."""

_SIGNED_AS: Final = "features"
"""Purpose of the signatures."""

Origins = NDArray[np.int64]
Features = NDArray[np.float32]

logger = logging.getLogger(__name__)


class FeatureCache:
    """The features of one slide by one tile encoder; see ``open_cache``."""

    def __init__(
        self,
        folder: Path,
        key: str,
        feature_dim: int,
        require_unchanged: Callable[[], None] = lambda: None,
        is_shared: bool = False,
    ) -> None:
        """Take the folder, the digest of all that affects the features, and their number.

        ``require_unchanged`` raises ``SlideError`` if the slide is no longer that of ``key``.
        ``is_shared`` also uses what others have written, into a folder of others too.
        """
        self.folder = folder
        self.key = key
        self.feature_dim = feature_dim
        self._require_unchanged = require_unchanged
        self._is_shared = is_shared
        self._foreign = 0
        self._pending: list[tuple[Origins, Features]] = []
        self._written = time.monotonic()
        self._usable = True

    def parts(self) -> Iterator[tuple[Origins, Features]]:
        """Yield origins (K, 2) in the view and features (K, F) by file.

        Files of this package that are damaged are removed. Others are not touched. Unless the
        cache is shared, what this installation did not write is left out, and a folder that others
        may write into is not used at all.
        """
        if not (self._is_shared or is_own_folder(self.folder)):
            self._usable = False
            logger.warning(
                "%s: not used, because it belongs to another user or others may write into it; own "
                "it and run `chmod o-w` on it, or pass --shared-cache if you trust them all",
                self.folder,
            )
            return
        self._foreign = 0
        for path in sorted(self.folder.glob("*.npz")):
            if not _OWN_NAME.fullmatch(path.name):
                continue
            try:
                require_regular_file(path, OutputError, remedy="its tiles are encoded again")
                part = self._read(path)
            except OutputError as error:
                logger.warning("%s", error)
                with suppress(OSError):
                    path.unlink()
                continue
            if part is not None:
                yield part
        if self._foreign:
            logger.warning(
                "%s: %d files were not written by this installation, their tiles are encoded "
                "again; --shared-cache takes them, if you trust all who may write there",
                self.folder,
                self._foreign,
            )

    def add(self, origins_xy: Origins, features: Features) -> None:
        """Add the features of some tiles; they are on disk within ``EVERY_S`` seconds."""
        self._pending.append((origins_xy, features))
        if time.monotonic() - self._written >= EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write everything to disk; after a failure, warn and stop writing.

        Features of a slide that was replaced meanwhile are dropped, as they may be of either file.
        """
        pending, self._pending = self._pending, []
        if pending and self._usable:
            origins, features = (np.concatenate(parts) for parts in zip(*pending, strict=True))
            try:
                self._require_unchanged()
                self._write(origins, features)
            except (OSError, OutputError, SlideError) as error:
                self._usable = False
                logger.warning("continuing without the feature cache: %s", error)
        self._written = time.monotonic()

    def _write(self, origins: Origins, features: Features) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        seal = _seal(self.key, origins, features)
        arrays: dict[str, Any] = {
            "key": np.array(self.key),
            "origins_xy": origins,
            "features": features,
            "sha256": np.array(seal),
            "signature": np.array(signature(_SIGNED_AS, seal)),
        }
        target = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.npz"
        with atomic_path(target) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    def _read(self, path: Path) -> tuple[Origins, Features] | None:
        """Return the content of a file; None if others wrote it and the cache is not shared.

        Raises ``OutputError`` if the file is damaged, its values are not those that were written,
        or it belongs to another slide or encoder.
        """
        what, remedy = f"{path}: damaged", "its tiles are encoded again"
        with (
            damage_as(OutputError, what, remedy),
            path.open("rb") as stream,
            np.load(stream, allow_pickle=False) as content,
        ):
            key, origins, features = (content[n] for n in ("key", "origins_xy", "features"))
            seal = str(content["sha256"])
            given = str(content["signature"]) if "signature" in content else None
        if str(key) != self.key:
            raise OutputError(f"{path}: belongs to another slide or encoder; {remedy}")
        fits = (
            origins.dtype == np.int64
            and features.dtype == np.float32
            and features.ndim == 2
            and origins.shape == (len(features), 2)
            and features.shape == (len(origins), self.feature_dim)
        )
        if not fits or not np.isfinite(features).all():
            raise OutputError(f"{what}: holds {features.dtype} {features.shape}; {remedy}")
        if seal != _seal(self.key, origins, features):
            raise OutputError(f"{what}: its values are not those that were written; {remedy}")
        if not (self._is_shared or is_signed(given, _SIGNED_AS, seal)):
            self._foreign += 1
            return None
        return origins, features


def open_cache(
    root: Path, view: SlideView, model: Model, on_bad_tile: str, is_shared: bool = False
) -> FeatureCache | None:
    """Open the cache of a slide.

    Args:
        root: Folder of the caches of all slides.
        view: The opened slide at the bundle's scale.
        model: The opened bundle.
        on_bad_tile: What is done with unreadable tiles.
        is_shared: Also use features that other users or installations have written.

    Returns:
        The cache; None for a model without a tile encoder.

    Raises:
        SlideError: The slide was replaced or removed since it was opened.
    """
    spec = model.bundle.specs.get("tile_encoder")
    if spec is None:
        return None
    decisive = {
        "version": VERSION,
        "slide": view.slide.digest(),
        "level": view.level,
        "resampling": view.resampling,
        "scale_xy": view.scale_xy,
        "size_wh": view.size_wh,
        "on_bad_tile": on_bad_tile,
        "encoder": model.entry(spec.name).content_sha256,
        "runs_on": (model.backend, model.device.kind, *_float_type(model)),
    }
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    feature_dim = spec.outputs[0].axes[-1]
    assert isinstance(feature_dim, int)
    unchanged = view.slide.require_unchanged
    return FeatureCache(root / key[:32], key, feature_dim, unchanged, is_shared)


def _seal(key: str, origins: Origins, features: Features) -> str:
    """Return a digest of the values of a file and of the key that they belong to."""
    digest = hashlib.sha256(f"{key}:{origins.shape}:{features.shape}:".encode())
    digest.update(np.ascontiguousarray(origins).data)
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()


def _float_type(model: Model) -> tuple[str, ...]:
    """Return the type of products in float layers, if it is not the exact one."""
    float_type = model.options.float_type
    return () if float_type == "fp32" else (float_type,)
