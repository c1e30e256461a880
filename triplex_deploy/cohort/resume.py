"""Whether a slide's results are complete and those that would be predicted now: checked."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job
from triplex_deploy.errors import TriplexError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.strict_json import to_strict_json as to_strict_json
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides.digest import companions
from triplex_deploy.spots import Spots
from triplex_deploy.spots.file import find_positions
from triplex_deploy.version import __version__

logger = logging.getLogger(__name__)


KEY: Final = "resume_key"
TABLE_DIGEST: Final = "h5ad_sha256"


class _NotCompleteError(Exception):
    """Why the results of a job cannot be kept."""


def record_completion(facts: Path, table: Path, key: str | None) -> None:
    """Add to the JSON ``facts`` what tells later that ``table`` is whole and still wanted.

    Raises ``OutputError``. Without a key, the slide will be predicted again.
    """
    content = json.loads(facts.read_text(encoding="utf-8"))
    content |= {KEY: key, TABLE_DIGEST: sha256_of(table)}
    with atomic_path(facts) as temporary:
        temporary.write_text(to_strict_json(content, indent=2) + "\n", encoding="utf-8")


def complete_facts(job: Job, bundle: Bundle) -> dict[str, Any] | None:
    """The facts of a job's results if there is nothing left to do; None, and the log says why not.

    The table must be the one that was recorded, byte for byte, open as HDF5, and hold the bundle's
    chosen genes at the recorded number of spots; the record's key must be the one of today's
    bundle, options and slide.
    """
    if not job.table.exists():
        return None
    try:
        facts = _read_facts(job.facts)
        _check_record(job, bundle, facts)
        _check_table(job, bundle, facts)
    except (_NotCompleteError, TriplexError, OSError) as reason:
        logger.info("%s: predicted again: %s", job.table, reason)
        return None
    return facts


def is_damaged_result(job: Job) -> bool:
    """Whether the table was a prediction of ours, as its record says, but no longer opens."""
    import h5py

    try:
        recorded = _read_facts(job.facts).get(KEY) is not None
    except (_NotCompleteError, OSError):
        return False
    try:
        with h5py.File(job.table, "r"):
            return False
    except OSError:
        return recorded


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _NotCompleteError(f"{path.name} is not JSON") from error
    if not isinstance(facts, dict):
        raise _NotCompleteError(f"{path.name} holds no facts")
    return facts


def _check_record(job: Job, bundle: Bundle, facts: dict[str, Any]) -> None:
    if facts.get(KEY) is None:
        raise _NotCompleteError(f"{job.facts.name} has no {KEY}")
    if facts[KEY] != resume_key(job, bundle):
        raise _NotCompleteError("bundle, options, version or slide differ")
    if facts.get("bundle_id") != bundle.id:
        raise _NotCompleteError(f"{job.facts.name} names another bundle")
    if facts.get(TABLE_DIGEST) != sha256_of(job.table):
        raise _NotCompleteError(f"{job.table.name} was altered or cut short")
    if job.report and not job.page.is_file():
        raise _NotCompleteError("the report is missing")


def _check_table(job: Job, bundle: Bundle, facts: dict[str, Any]) -> None:
    import h5py

    n_genes = len(gene_indices(job.options.genes, bundle.manifest.genes))
    with h5py.File(job.table, "r") as table:
        matrix = table.get("X")
        shape = getattr(matrix, "shape", None)
    if shape != (facts.get("spots"), n_genes):
        raise _NotCompleteError(f"{job.table.name} holds {shape}, not spots x {n_genes} genes")


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
