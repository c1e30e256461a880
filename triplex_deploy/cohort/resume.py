"""Find out whether a slide's results are complete and would be the same if predicted now."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job
from triplex_deploy.errors import OutputError, TriplexError
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.hdf5 import OPEN_ELSEWHERE, is_open_elsewhere, open_hdf5
from triplex_deploy.files.regular import open_regular
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.sidecar import H5AD_DIGEST, SUMMARY, read_sidecar
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides.slide_files import companions
from triplex_deploy.spots import Spots, pooled_files
from triplex_deploy.spots.file import find_positions
from triplex_deploy.version import __version__

logger = logging.getLogger(__name__)

KEY: Final = "resume_key"
"""Key of the metadata under which the ``resume_key`` is recorded."""
REPORTED: Final[dict[str, type | tuple[type, ...]]] = {
    "spots": int,
    "tiles_encoded": int,
    "spots_per_s": (int, float),
    "device": str,
}
"""Types of the metadata that are shown for a complete slide."""


class _NotCompleteError(Exception):
    """The results of a job cannot be kept; the message gives the reason."""


def complete_metadata(job: Job, bundle: Bundle) -> dict[str, Any] | None:
    """Return the metadata of a job's results if they are complete, otherwise None.

    Results are complete if the h5ad is byte for byte the recorded one, opens as HDF5, and holds
    the chosen genes at the recorded number of spots, and if the recorded key is that of today's
    bundle, options and slide. Otherwise the log gives the reason.
    """
    if not job.h5ad_path.exists():
        return None
    try:
        metadata = _read_metadata(job.metadata_path)
        _check_record(job, bundle, metadata)
        _check_shape(job, bundle, metadata)
    except (_NotCompleteError, TriplexError, OSError) as reason:
        logger.info("%s: predicted again: %s", job.h5ad_path, reason)
        return None
    return metadata


def is_damaged_result(job: Job) -> bool:
    """Return True if the metadata shows that the h5ad was a prediction, but it does not open."""
    try:
        recorded = _read_metadata(job.metadata_path).get(KEY) is not None
    except (_NotCompleteError, OSError):
        return False
    try:
        with open_hdf5(job.h5ad_path, OutputError, "prediction", "predict again", ()):
            return False
    except OutputError as error:
        return recorded and OPEN_ELSEWHERE not in str(error)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata without the summary, which is large and of no use here."""
    try:
        metadata = read_sidecar(path)
    except OutputError as error:
        raise _NotCompleteError(str(error)) from error
    metadata.pop(SUMMARY, None)
    return metadata


def _check_record(job: Job, bundle: Bundle, metadata: dict[str, Any]) -> None:
    if metadata.get(KEY) is None:
        raise _NotCompleteError(f"{job.metadata_path.name} has no {KEY}")
    for key, kinds in REPORTED.items():
        if not isinstance(metadata.get(key), kinds):
            raise _NotCompleteError(f"{job.metadata_path.name} has no {key}")
    if metadata[KEY] != resume_key(job, bundle):
        raise _NotCompleteError("bundle, options, version or slide differ")
    if metadata.get("bundle_id") != bundle.id:
        raise _NotCompleteError(f"{job.metadata_path.name} names another bundle")
    wanted = job.precision or bundle.manifest.precision
    if wanted != "auto" and metadata.get("precision") != wanted:
        raise _NotCompleteError(f"it was predicted in {metadata.get('precision')}, not {wanted}")
    if metadata.get(H5AD_DIGEST) != sha256_of(job.h5ad_path):
        raise _NotCompleteError(f"{job.h5ad_path.name} was altered or cut short")
    if job.report and not job.report_path.is_file():
        raise _NotCompleteError("the report is missing")


def _check_shape(job: Job, bundle: Bundle, metadata: dict[str, Any]) -> None:
    import h5py

    n_genes = len(gene_indices(job.options.genes, bundle.manifest.genes))
    try:
        with h5py.File(job.h5ad_path, "r") as table:
            matrix = table.get("X")
            shape = getattr(matrix, "shape", None)
    except OSError as error:
        if is_open_elsewhere(error):
            return  # its digest is the recorded one, so that nothing is redone
        raise
    if shape != (metadata.get("spots"), n_genes):
        raise _NotCompleteError(f"{job.h5ad_path.name} holds {shape}, not spots x {n_genes} genes")


SPEED_ONLY: Final = frozenset(("batch_size", "threads", "memory_gb", "cache", "shared_cache"))
"""Options that change the speed of a prediction but not its values; any other is in the key."""
SAMPLE_BYTES: Final = 1 << 20
"""Bytes read from both ends of a slide's files."""
DIAMETERS_FILE: Final = "scalefactors_json.json"


def resume_key(job: Job, bundle: Bundle) -> str:
    """Return a digest of the bundle's id, this version, the slide and the options of the results.

    Of a slide's files the size, modification time, first and last megabyte count; of a spots file
    or mask the whole content.

    Raises:
        OSError: If a file cannot be read, or a server tells nothing about a slide.
        SpotsError: If the spots folder holds no positions.
    """
    metadata = {
        "version": __version__,
        "bundle": bundle.id,
        "slide": _slide_state(job),
        "options": _deciding_options(job.options),
    }
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _slide_state(job: Job) -> Any:
    """Return what changes if the slide does; of a slide at a URL, what its server says of it."""
    if job.source is not None:
        if not job.source.state:
            raise OSError(f"{job.source.name}: its server tells no size or version")
        return [job.source.name, job.source.state]
    parts = companions(job.slide)
    if job.slide.is_dir():  # OME-Zarr: many small files, of which reading the ends is reading all
        states = [(str(part.relative_to(job.slide)), part.stat()) for part in parts]
        return [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return [_sample(path) for path in (job.slide, *parts)]


def _sample(path: Path) -> list[Any]:
    """Return suffix, size, time and a digest of both ends; slides are too large to read twice."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        state = os.fstat(file.fileno())
        digest.update(file.read(SAMPLE_BYTES))
        file.seek(max(0, state.st_size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return [path.suffix, state.st_size, state.st_mtime_ns, digest.hexdigest()]


def _deciding_options(options: PredictOptions) -> dict[str, Any]:
    chosen = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in SPEED_ONLY
    }
    if options.unfamiliar != "fail":  # warning of a slide or not, the results are the same
        del chosen["unfamiliar"]
    if not options.save_features:  # results of earlier versions, which had no such option, stay
        del chosen["save_features"]
    chosen["spots"] = _spots_digest(options)
    del chosen["alignment"]  # its content is in the digest
    chosen["mask"] = None if options.mask is None else sha256_of(Path(options.mask))
    return chosen


def _spots_digest(options: PredictOptions) -> Any:
    spots = options.spots
    if spots is None:
        return None
    if isinstance(spots, Spots):
        arrays = (spots.level0_xy, spots.grid_rc)
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        geometry = repr((spots.layout, spots.spot_diameter_px, spots.barcodes))
        return [hashlib.sha256(content).hexdigest(), geometry]
    path = Path(spots)
    if options.pooling is not None:
        return [sha256_of(file) for file in pooled_files(path, options.pooling)]
    positions = find_positions(path) if path.is_dir() else path
    diameters = positions.with_name(DIAMETERS_FILE)
    return [
        sha256_of(file) for file in (positions, diameters) if file.is_file() or file is positions
    ]
