"""What each model costs where it is deployed: exported once, and one section predicted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import TriplexError
from triplex_deploy.exporters.export import ExportOptions, export_bundle
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.models import read_checkpoint
from triplex_deploy.study.cells import StudyCell
from triplex_deploy.study.config import Study, slug
from triplex_deploy.study.parameters import all_parameters, deployed_parameters
from triplex_deploy.study.predict_apart import Request, predict_apart
from triplex_deploy.training.prepared import PREPARED_FILE, Prepared, PreparedSection, open_prepared

logger = logging.getLogger(__name__)

DEPLOYED: Final = "deployed"
FACTS: Final = "facts.json"
PREDICTION: Final = "prediction.npz"
SPOTS: Final = "spots.npz"
BUNDLE: Final = "bundle"


@dataclass(frozen=True)
class Deployment:
    """A finished cell to export, the section to predict with it, and the folder for both."""

    cell: StudyCell
    section: str
    folder: Path

    def prediction(self) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
        """Expression (N, G) of the section and its genes, None where there is none yet."""
        if not (self.folder / PREDICTION).is_file():
            return None
        with np.load(self.folder / PREDICTION) as arrays:
            return arrays["expression"], tuple(map(str, arrays["genes"]))


def deployments(study: Study, out: Path, done: Sequence[StudyCell]) -> Iterator[Deployment]:
    """One per data set and model: its first seed on the fold of the mapped section, or the first.

    A model without that cell has none.
    """
    config, seen = study.config, set()
    opened = {label: open_prepared(study.path(d.prepared)) for label, d in config.datasets.items()}
    for cell in done:
        section = _section(study, opened[cell.dataset], cell)
        if section is None or (cell.dataset, cell.model) in seen:
            continue
        seen.add((cell.dataset, cell.model))
        folder = out / DEPLOYED / slug(cell.dataset) / slug(cell.model)
        yield Deployment(cell, section, folder)


def measure_deployment(deployment: Deployment) -> dict[str, Any]:
    """Export and predict unless that was done with this very checkpoint.

    Returns parameters, megabytes, spots/s and peak memory; what went wrong is under ``error``.
    """
    digest = sha256_of(deployment.cell.checkpoint)
    kept = _read(deployment.folder / FACTS)
    if kept is not None and (kept["checkpoint_sha256"], kept["section"]) == (
        digest,
        deployment.section,
    ):
        return kept
    logger.info("%s: exported and predicted with", deployment.cell.key)
    facts: dict[str, Any] = {"checkpoint_sha256": digest, "section": deployment.section}
    try:
        deployment.folder.mkdir(parents=True, exist_ok=True)
        facts |= _measure(deployment)
    except (TriplexError, OSError) as error:
        logger.warning("%s: not deployed: %s", deployment.cell.key, error)
        return facts | {"error": str(error)}  # and tried again the next time
    with atomic_path(deployment.folder / FACTS) as path:
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _measure(deployment: Deployment) -> dict[str, Any]:
    checkpoint = read_checkpoint(deployment.cell.checkpoint)
    model = checkpoint.build_model()
    bundle, report = export_bundle(
        deployment.cell.checkpoint, deployment.folder / BUNDLE, ExportOptions(force=True)
    )
    prepared = open_prepared(deployment.cell.prepared)
    section = prepared.sections[deployment.section]
    with atomic_path(deployment.folder / SPOTS) as path, path.open("wb") as file:
        np.savez(file, level0_xy=section.measured.level0_xy, grid_rc=section.measured.grid_rc)
    request = Request(
        bundle=str(bundle.path),
        slide=str(section.measured.slide_path),
        spots=str(deployment.folder / SPOTS),
        mpp=slide_mpp(prepared, section),
        out=str(deployment.folder / PREDICTION),
    )
    return {
        "parameters": deployed_parameters(model),
        "parameters_in_training": all_parameters(model),
        "graphs_mb": round(sum(f.stat().st_size for f in bundle.path.glob("*.onnx*")) / 1e6, 2),
        "bundle_mb": round(_bytes(bundle.path) / 1e6, 2),
        "parity_passed": report.passed,
        **predict_apart(request, deployment.folder / "request.json"),
    }


def slide_mpp(prepared: Prepared, section: PreparedSection) -> float:
    """The scale at which a section is read again as it was prepared."""
    content = json.loads((prepared.path / PREPARED_FILE).read_text(encoding="utf-8"))
    return prepared.tile_mpp if content["tile"]["native_pixels"] else section.measured.slide_mpp


def _section(study: Study, prepared: Prepared, cell: StudyCell) -> str | None:
    """The section to predict with a cell, None if the cell is not the one to deploy."""
    tested = prepared.folds[cell.fold].test
    mapped = study.config.maps.get(cell.dataset)
    if mapped is None:
        wanted = study.config.folds
        first = 0 if wanted == "all" else wanted[0]
        return tested[0] if cell.fold == first else None
    return mapped.section if mapped.section in tested else None


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content
