"""Measure what each model costs when it is deployed: export it, and predict one section."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import OutputError, TriplexError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.npz import read_npz
from triplex_deploy.files.ours import has_keys, is_our_npz, require_ours
from triplex_deploy.models import read_checkpoint
from triplex_deploy.study.cells import StudyCell, read_json
from triplex_deploy.study.config import Study, slug
from triplex_deploy.study.measure_prediction import PredictionRequest, measure_prediction
from triplex_deploy.study.parameters import all_parameters, deployed_parameters
from triplex_deploy.training.prepared import PREPARED_FILE, Prepared, PreparedSection, open_prepared

logger = logging.getLogger(__name__)

DEPLOYED_DIR: Final = "deployed"
"""Folder of all deployments, below the study's folder."""
COST_FILE: Final = "cost.json"
"""What the deployment costs."""
OLD_COST_FILE: Final = "facts.json"
"""Name of ``COST_FILE`` in studies of earlier versions."""
PREDICTION_FILE: Final = "prediction.npz"
SPOTS_FILE: Final = "spots.npz"
REQUEST_FILE: Final = "request.json"
BUNDLE_DIR: Final = "bundle"


@dataclass(frozen=True)
class Deployment:
    """A trained model to export, and a section to predict with it."""

    cell: StudyCell
    """The finished cell that has trained the model."""
    section: str
    """Name of the section."""
    folder: Path
    """Folder of the bundle and the prediction."""

    def prediction(self) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
        """Return the expression (N, G) of the section and its genes, or None before predicting."""
        path = self.folder / PREDICTION_FILE
        if not path.is_file():
            return None
        names, remedy = ("expression", "genes"), "remove it and run the study again"
        arrays = read_npz(path, OutputError, "damaged", remedy, names)
        return arrays["expression"], tuple(map(str, arrays["genes"]))


def find_deployments(
    study: Study, out: Path, finished: Sequence[StudyCell]
) -> Iterator[Deployment]:
    """Yield the deployment of each model on each data set.

    The cell is the model's first seed on the fold that tests the section of the map, or on the
    first fold if the data set has no map. A model without this cell is left out.

    Args:
        study: The study.
        out: Folder of the study's results.
        finished: The cells that are finished.
    """
    config, seen = study.config, set()
    opened = {label: open_prepared(study.path(d.prepared)) for label, d in config.datasets.items()}
    for cell in finished:
        section = _section(study, opened[cell.dataset], cell)
        if section is None or (cell.dataset, cell.model) in seen:
            continue
        seen.add((cell.dataset, cell.model))
        folder = out / DEPLOYED_DIR / slug(cell.dataset) / slug(cell.model)
        yield Deployment(cell, section, folder)


def measure_deployment(deployment: Deployment) -> dict[str, Any]:
    """Export a model and predict a section, and return what both cost.

    The recorded cost is returned if it is of the same checkpoint and section.

    Returns:
        Numbers of parameters, sizes in MB, spots per second and peak memory in MB; or an
        ``error``, in which case the next run tries again.
    """
    digest = sha256_of(deployment.cell.checkpoint)
    names = (COST_FILE, OLD_COST_FILE)
    kept = next(filter(None, (read_json(deployment.folder / name) for name in names)), None)
    if kept is not None and (kept["checkpoint_sha256"], kept["section"]) == (
        digest,
        deployment.section,
    ):
        return kept
    logger.info("%s: export and prediction", deployment.cell.key)
    cost: dict[str, Any] = {"checkpoint_sha256": digest, "section": deployment.section}
    try:
        deployment.folder.mkdir(parents=True, exist_ok=True)
        _require_own(deployment.folder)
        cost |= _measure(deployment)
    except (TriplexError, OSError) as error:
        logger.warning("%s: not deployed: %s", deployment.cell.key, error)
        return cost | {"error": str(error)}
    with atomic_path(deployment.folder / COST_FILE) as path:
        path.write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")
    return cost


def _require_own(folder: Path) -> None:
    """Raise ``OutputError`` if a file of others has the name of one that is written here."""
    require_ours(folder / COST_FILE, has_keys("checkpoint_sha256", "section"), "a cost")
    require_ours(folder / SPOTS_FILE, is_our_npz("level0_xy"), "an array of spots")
    require_ours(folder / PREDICTION_FILE, is_our_npz("expression"), "a prediction")
    require_ours(folder / REQUEST_FILE, has_keys("bundle", "slide", "spots"), "a request")


def _measure(deployment: Deployment) -> dict[str, Any]:
    checkpoint = read_checkpoint(deployment.cell.checkpoint)
    model = checkpoint.build_model()
    bundle, report = export_bundle(
        deployment.cell.checkpoint, deployment.folder / BUNDLE_DIR, ExportOptions(force=True)
    )
    prepared = open_prepared(deployment.cell.prepared)
    section = prepared.sections[deployment.section]
    with atomic_path(deployment.folder / SPOTS_FILE) as path, path.open("wb") as file:
        np.savez(file, level0_xy=section.measured.level0_xy, grid_rc=section.measured.grid_rc)
    request = PredictionRequest(
        bundle=str(bundle.path),
        slide=str(section.measured.slide_path),
        spots=str(deployment.folder / SPOTS_FILE),
        mpp=slide_mpp(prepared, section),
        out=str(deployment.folder / PREDICTION_FILE),
    )
    return {
        "parameters": deployed_parameters(model),
        "parameters_in_training": all_parameters(model),
        "graphs_mb": round(sum(f.stat().st_size for f in bundle.path.glob("*.onnx*")) / 1e6, 2),
        "bundle_mb": round(_bytes(bundle.path) / 1e6, 2),
        "parity_passed": report.passed,
        **measure_prediction(request, deployment.folder / REQUEST_FILE),
    }


def slide_mpp(prepared: Prepared, section: PreparedSection) -> float:
    """Return the microns per pixel of a slide, so that its tiles are those that were prepared."""
    content = json.loads((prepared.path / PREPARED_FILE).read_text(encoding="utf-8"))
    return prepared.tile_mpp if content["tile"]["native_pixels"] else section.measured.slide_mpp


def _section(study: Study, prepared: Prepared, cell: StudyCell) -> str | None:
    """Return the section to predict with a cell, or None if the cell is not deployed."""
    tested = prepared.folds[cell.fold].test
    mapped = study.config.maps.get(cell.dataset)
    if mapped is None:
        wanted = study.config.folds
        first = 0 if wanted == "all" else wanted[0]
        return tested[0] if cell.fold == first else None
    return mapped.section if mapped.section in tested else None


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
