"""What decides a slide's results, as one digest: equal keys, equal predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy import __version__
from triplex_deploy.bundle import Bundle, sha256_of
from triplex_deploy.pipeline.many.job import Job
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides.digest import companions
from triplex_deploy.spots import Spots
from triplex_deploy.spots.space_ranger import find_positions

SPEED_ONLY: Final = frozenset(("batch_size", "threads", "memory_gb", "cache"))
"""Options that change what a prediction costs, and nothing else; a new one counts until listed."""
SAMPLE_BYTES: Final = 1 << 20
DIAMETERS: Final = "scalefactors_json.json"


def resume_key(job: Job, bundle: Bundle) -> str:
    """Digest over the bundle's id, this version, the slide and the options that affect results.

    A slide is known by the size, modification time and first and last megabyte of its files; a
    spots file or mask by its content. Raises ``OSError`` or ``SpotsError`` where one cannot be
    read.
    """
    facts = {
        "version": __version__,
        "bundle": bundle.id,
        "slide": [_sample(path) for path in (job.slide, *companions(job.slide))],
        "options": _deciding_options(job.options),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sample(path: Path) -> list[Any]:
    """Name, size, time and a digest of both ends: slides are too large to read twice."""
    state = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
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
    chosen["spots"] = _spots_digest(options.spots)
    chosen["mask"] = None if options.mask is None else sha256_of(Path(options.mask))
    return chosen


def _spots_digest(spots: str | Path | Spots | None) -> Any:
    if spots is None:
        return None
    if isinstance(spots, Spots):
        arrays = (spots.level0_xy, spots.grid_rc)
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        told = repr((spots.layout, spots.spot_diameter_px, spots.barcodes))
        return [hashlib.sha256(content).hexdigest(), told]
    path = Path(spots)
    positions = find_positions(path) if path.is_dir() else path
    diameters = positions.with_name(DIAMETERS)
    return [
        sha256_of(file) for file in (positions, diameters) if file.is_file() or file is positions
    ]
