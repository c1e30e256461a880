"""Test models of one data set on sections of another, as in the paper's Table 2."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError
from triplex_deploy.expression import LabelTransform, measure_slide, top_genes
from triplex_deploy.expression.cross_validation import N_TOP_GENES, Spread
from triplex_deploy.expression.metrics import nan_mean
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.npz import read_npz
from triplex_deploy.files.ours import is_our_npz, require_ours
from triplex_deploy.models import read_checkpoint
from triplex_deploy.progress import Progress
from triplex_deploy.study.cells import StudyCell, prepared_digest
from triplex_deploy.study.config import ExternalEntry, Study, slug
from triplex_deploy.study.paper import Printed, paper_row
from triplex_deploy.study.results import FinishedCells
from triplex_deploy.study.scores import METRIC_KEYS, ModelScores
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepared import Prepared, PreparedSection, open_prepared

logger = logging.getLogger(__name__)

EXTERNAL_DIR: Final = "external"
"""Folder of the predictions, below the study's folder."""


@dataclass(frozen=True, eq=False)
class SectionPrediction:
    """Prediction of one model for a section."""

    genes: tuple[str, ...]
    """Symbols of the G genes."""
    expression: NDArray[np.float32]
    """(N, G) expression of N spots."""


def score_externally(
    study: Study, out: Path, finished: FinishedCells, progress: Progress
) -> dict[str, Any]:
    """Run the external tests of a study, and return their metrics by label, sample and model.

    Args:
        study: The study.
        out: Folder of the study's results; predictions are kept there.
        finished: The finished cells, with the models to test.
        progress: Where the tests are reported.

    Raises:
        DatasetError: If a section has no gene in common with a model.
    """
    return {
        label: _test(study, label, entry, out / EXTERNAL_DIR / slug(label), finished, progress)
        for label, entry in study.config.external.items()
    }


def score_sample(
    section: PreparedSection,
    transform: LabelTransform,
    predicted: Sequence[SectionPrediction],
    ranks: Mapping[str, float],
) -> dict[str, Any]:
    """Return the metrics of the fold models and of their ensemble on one section.

    Genes are matched by symbol, and the library of the labels is summed over the matched genes
    only. A model is scored on the genes that it has in common with the section. The ensemble is the
    mean of all predictions, and is scored on the genes that all models have.

    Args:
        section: The section.
        transform: How labels are made of counts.
        predicted: Prediction of each fold's model.
        ranks: Mean rank of each gene in cross-validation, by symbol. PCC(H) is over the 50 matched
            genes that rank best.

    Returns:
        ``folds``: mean and standard deviation (ddof 0) of each metric over the models;
        ``ensemble``: metrics of the ensemble; numbers of ``models`` and ``matched`` genes.

    Raises:
        DatasetError: If no gene matches.
    """
    scores = [_score(section, transform, model, ranks) for model in predicted]
    common = [
        gene for gene in predicted[0].genes if all(gene in model.genes for model in predicted[1:])
    ]
    stacked = [model.expression[:, _columns(model.genes, common)] for model in predicted]
    ensemble = SectionPrediction(tuple(common), np.mean(stacked, axis=0))
    return {
        "folds": {
            key: asdict(Spread.over([score[key] for score in scores])) for key in METRIC_KEYS
        },
        "ensemble": _score(section, transform, ensemble, ranks),
        "models": len(predicted),
        "matched": len(_matched(section, common)),
    }


def _test(
    study: Study,
    label: str,
    entry: ExternalEntry,
    folder: Path,
    finished: FinishedCells,
    progress: Progress,
) -> dict[str, Any]:
    prepared = open_prepared(study.path(entry.prepared))
    rows = finished.scores(entry.trained_on, entry.models or list(study.config.models))
    samples: dict[str, Any] = {}
    progress.start("external tests", len(rows) * len(prepared.sections))
    for model, scores in rows.items():
        cells = [c for c in finished.cells if (c.dataset, c.model) == (entry.trained_on, model)]
        for name, section in prepared.sections.items():
            predicted = [_predict(cell, prepared, name, folder) for cell in cells]
            result = score_sample(section, prepared.label_transform, predicted, _ranks(scores))
            sample = samples.setdefault(name, {"spots": section.measured.n_spots, "models": {}})
            sample["matched"] = result.pop("matched")
            sample["models"][model] = {**result, "paper": _paper(study, entry, name, model)}
            progress.advance(1)
    return {"trained_on": entry.trained_on, "samples": samples}


def _predict(cell: StudyCell, prepared: Prepared, name: str, folder: Path) -> SectionPrediction:
    """Predict a section with the model of a cell, or read the prediction of an earlier run."""
    checksum = hashlib.sha256(sha256_of(cell.checkpoint).encode())
    checksum.update(prepared_digest(prepared.path).encode())
    key = checksum.hexdigest()
    path = folder / slug(cell.model) / f"fold-{cell.fold}-seed-{cell.seed}-{slug(name)}.npz"
    if path.is_file():
        names, remedy = ("key", "genes", "expression"), "delete it to predict again"
        arrays = read_npz(path, DatasetError, "damaged", remedy, names)
        if str(arrays["key"]) == key:
            return SectionPrediction(tuple(map(str, arrays["genes"])), arrays["expression"])
    logger.info("%s: prediction of %s", cell.key, name)
    checkpoint = read_checkpoint(cell.checkpoint)
    expression = predict_section(checkpoint.build_model(), prepared.sections[name])
    require_ours(path, is_our_npz("key"), "a prediction")
    with atomic_path(path) as temporary, temporary.open("wb") as written:
        np.savez(written, key=key, genes=np.array(checkpoint.genes), expression=expression)
    return SectionPrediction(checkpoint.genes, expression)


def _score(
    section: PreparedSection,
    transform: LabelTransform,
    model: SectionPrediction,
    ranks: Mapping[str, float],
) -> dict[str, float]:
    genes = _matched(section, model.genes)
    if not genes:
        raise DatasetError(
            f"{section.measured.name}: has no gene in common with the models; "
            "both need gene symbols"
        )
    labels = section.labels(tuple(genes), transform)
    metrics = measure_slide(labels, model.expression[:, _columns(model.genes, genes)])
    known = np.array([ranks.get(gene, np.nan) for gene in genes])
    return {
        "mse": metrics.mse,
        "mae": metrics.mae,
        "pcc_m": nan_mean(metrics.pcc),
        "pcc_h": nan_mean(metrics.pcc[top_genes(known, N_TOP_GENES)]),
        "mse_within": metrics.mse_within,
        "mse_offset": metrics.mse_offset,
    }


def _matched(section: PreparedSection, genes: Sequence[str]) -> list[str]:
    measured = set(section.measured.genes)
    return [gene for gene in genes if gene in measured]


def _columns(genes: Sequence[str], chosen: Sequence[str]) -> list[int]:
    place = {gene: i for i, gene in enumerate(genes)}
    return [place[gene] for gene in chosen]


def _ranks(scores: ModelScores) -> dict[str, float]:
    return dict(zip(scores.genes, scores.ranked().tolist(), strict=True))


def _paper(study: Study, entry: ExternalEntry, sample: str, model: str) -> Printed | None:
    if sample not in entry.samples:
        return None
    row = study.config.paper_rows.get(model, model)
    return paper_row("table2", entry.samples[sample], row)
