"""Encode the tiles of a section with the frozen encoder, read as prediction reads them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import Neighborhood
from triplex_deploy.data import Section
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.pipeline.encode import MAX_READERS, WORKERS_PER_READER
from triplex_deploy.pipeline.ordered_pool import OrderedThreadPool
from triplex_deploy.progress import Progress
from triplex_deploy.slides import open_slide
from triplex_deploy.slides.identity import (
    FileIdentity,
    digest_of_opened,
    identity_of,
    require_same_files,
)
from triplex_deploy.spots import Spots, check_spots
from triplex_deploy.tiles import SlideView, TileBatch, TilePlan, plan_tiles, stream_tiles
from triplex_deploy.tiles.masked_neighbor import mean_color_tile
from triplex_deploy.training.array_files import digests, first_altered
from triplex_deploy.training.encoder_runner import EncoderRunner
from triplex_deploy.training.features import (
    FEATURES,
    SECTION_FILE,
    TARGETS,
    FeatureFile,
    claim_section,
    feature_key,
)
from triplex_deploy.training.section_scale import check_section_scale

logger = logging.getLogger(__name__)

TILE_PLAN: Final = "plan.npz"
MEASURED: Final = "measured.npz"


@dataclass(frozen=True)
class EncodeOptions:
    """Holds how sections are read."""

    tile_mpp: float
    """Microns per pixel of the tiles; only recorded with ``native_pixels``."""
    native_pixels: bool = False
    """Read tiles at level 0 without resampling, whatever the scale, as the published code does."""
    neighborhood: Neighborhood = field(default_factory=Neighborhood)
    """Which tiles are the neighbors of a spot."""


def encode_section(
    section: Section,
    runner: EncoderRunner,
    folder: Path,
    options: EncodeOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Write the features, tiles and measurements of a section, and return its metadata.

    A folder that is complete for the same content is not encoded again. An interrupted run is
    continued.

    Args:
        section: The section.
        runner: The frozen encoder.
        folder: Folder of the section.
        options: How the section is read.
        progress: Where progress is reported.

    Raises:
        SlideError: The slide cannot be read, or has changed.
        SpotsError: The spots do not fit the slide.
        OutputError: The folder holds files that this package did not write.
    """
    tile_mpp = section.slide_mpp if options.native_pixels else options.tile_mpp
    job = _Job(section, runner, folder, tile_mpp, options, progress)
    metadata = _complete_metadata(folder, job.key)
    altered = None if metadata is None else first_altered(folder, metadata.get("digests"))
    if altered is not None:
        logger.warning(
            "%s: %s was altered since it was written; the section is encoded again",
            section.name,
            altered,
        )
    if metadata is None or altered is not None:
        metadata = _encode(job)
    else:
        logger.info("%s: features are cached", section.name)
    _write_measured(section, folder / MEASURED)
    return {**metadata, "digests": {**metadata.get("digests", {}), **digests(folder, (MEASURED,))}}


@dataclass(frozen=True)
class _Job:
    """Holds a section and all that its encoding needs."""

    section: Section
    runner: EncoderRunner
    folder: Path
    tile_mpp: float
    options: EncodeOptions
    progress: Progress

    @cached_property
    def identity(self) -> tuple[FileIdentity, ...]:
        """Return the identities of the files of the slide, before anything is read of them."""
        return identity_of(self.section.slide_path)

    @cached_property
    def key(self) -> str:
        section = self.section
        return feature_key(
            digest_of_opened(section.slide_path, self.identity),
            self.runner.digest,
            section.slide_mpp,
            self.tile_mpp,
            section.level0_xy,
            self.options.neighborhood,
        )


def _encode(job: _Job) -> dict[str, Any]:
    claim_section(job.folder)
    (job.folder / SECTION_FILE).unlink(missing_ok=True)
    section = job.section
    with open_slide(section.slide_path) as slide:
        require_same_files(section.slide_path, job.identity)
        spots = Spots(section.level0_xy, section.grid_rc, "file", spot_diameter_px=1.0)
        check_spots(spots, slide.level_sizes[0])
        check_section_scale(section, slide)
        view = SlideView.open(slide, section.slide_mpp, job.tile_mpp)
        centers = view.centers(section.level0_xy)
        plan = plan_tiles(centers, view.size_wh, job.options.neighborhood)
        file = _stream(job, view, plan)
        require_same_files(section.slide_path, job.identity)
    np.savez(
        job.folder / TILE_PLAN,
        neighbor_tile=plan.neighbor_tile,
        neighbor_mask=plan.neighbor_mask,
        spot_tile=plan.spot_tile,
        masked_feature=masked_feature(job.runner),
    )
    metadata = {
        "key": job.key,
        "spots": section.n_spots,
        "tiles": len(plan.origins_xy),
        "tiles_without_sharing": int(plan.neighbor_mask.sum()),
        "level0_px_per_tile_px": view.scale,
        "precision": job.runner.precision,
        "backend": job.runner.running.backend,
    }
    file.flush()
    metadata["digests"] = digests(job.folder, (FEATURES, TARGETS, TILE_PLAN))
    with atomic_path(job.folder / SECTION_FILE) as path:  # from here on the section is complete
        path.write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    file.forget_progress()
    return metadata


def masked_feature(runner: EncoderRunner) -> NDArray[np.float32]:
    """Return the feature (F,) of a masked neighbor."""
    feature: NDArray[np.float32] = runner.running.encode(mean_color_tile())[0]
    return feature


def _stream(job: _Job, view: SlideView, plan: TilePlan) -> FeatureFile:
    """Encode the tiles that no earlier run has encoded."""
    n_tiles, n_spots = len(plan.origins_xy), len(plan.spot_tile)
    file = FeatureFile.open(job.folder, job.key, n_tiles, n_spots, job.runner.encoder.feature_dim)
    missing = file.missing
    job.progress.start(f"encoding {job.section.name}", len(missing))
    if not len(missing):
        return file
    rest = replace(plan, origins_xy=np.ascontiguousarray(plan.origins_xy[missing]))
    running = job.runner.running
    spots_of_tile = _SpotsOfTile(plan)

    def work(batch: TileBatch) -> _Step:
        tile_index = missing[batch.tile_index]
        spots, rows = spots_of_tile.find(tile_index)
        return _Step(tile_index, running.encode(batch.tiles), spots, batch.tiles[rows])

    readers = max(1, min(running.workers // WORKERS_PER_READER, MAX_READERS))
    stream = stream_tiles(view, rest, job.runner.tiles_per_call, readers)
    with OrderedThreadPool("encode", stream, work, running.workers) as pool:
        for step in pool:
            file.put(step.tile_index, step.features, step.spots, step.target_tiles)
            job.progress.advance(len(step.tile_index))
    return file


@dataclass(frozen=True, eq=False)
class _Step:
    """Holds the result of a worker for a batch of tiles."""

    tile_index: NDArray[np.int64]
    """Indices (B,) of the tiles in the plan."""
    features: NDArray[np.float32]
    """Features (B, F) of the tiles."""
    spots: NDArray[np.int64]
    """Indices (K,) of the spots with a target tile in the batch."""
    target_tiles: NDArray[np.uint8]
    """Target tiles (K, 224, 224, 3) of these spots."""


class _SpotsOfTile:
    """Finds the spots of target tiles."""

    def __init__(self, plan: TilePlan) -> None:
        self._order = np.argsort(plan.spot_tile, kind="stable")
        self._tile_of_ordered = plan.spot_tile[self._order]

    def find(self, tile_index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the spots of some tiles, and for each spot the position of its tile in them."""
        first = np.searchsorted(self._tile_of_ordered, tile_index, "left")
        end = np.searchsorted(self._tile_of_ordered, tile_index, "right")
        counts = end - first
        rows = np.repeat(np.arange(len(tile_index)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._order[first[rows] + within], rows


def _write_measured(section: Section, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            data=section.counts.data,
            indices=section.counts.indices,
            indptr=section.counts.indptr,
            genes=np.array(section.genes),
            grid_rc=section.grid_rc,
            level0_xy=section.level0_xy,
        )


def _complete_metadata(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        metadata = json.loads((folder / SECTION_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) and metadata.get("key") == key else None
