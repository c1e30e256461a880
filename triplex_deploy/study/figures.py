"""The figures of a study: gene correlations per fold, and genes over a section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.expression import gene_correlations
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.study.config import Study, slug
from triplex_deploy.study.deploy import Deployment
from triplex_deploy.study.results import FinishedCells
from triplex_deploy.study.scores import ModelScores
from triplex_deploy.study.write import FIGURES
from triplex_deploy.training.prepared import open_prepared

DPI: Final = 120
COLORS: Final = "magma"
N_MAPS: Final = 3


@dataclass(frozen=True, eq=False)
class Maps:
    """Genes measured (N, G) and predicted by each model, (N, G) with NaN for a gene it lacks."""

    section: str
    level0_xy: NDArray[np.float64]
    genes: tuple[str, ...]
    measured: NDArray[np.floating[Any]]
    predicted: Mapping[str, NDArray[np.floating[Any]]]


def draw_figures(
    study: Study, out: Path, done: FinishedCells, deployed: Sequence[Deployment]
) -> list[Path]:
    """Draw what there is to draw into ``out``/figures and return the files."""
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn = []
    for label in study.config.datasets:
        rows = done.scores(label, list(study.config.models))
        if not rows:
            continue
        prefix = f"{slug(study.config.name)}-{slug(label)}"
        drawn.append(out / FIGURES / f"{prefix}-folds.png")
        draw_fold_boxes(drawn[-1], rows)
        maps = _maps(study, label, rows, [d for d in deployed if d.cell.dataset == label])
        if maps is not None:
            drawn.append(out / FIGURES / f"{prefix}-maps.png")
            draw_model_maps(drawn[-1], maps)
    return drawn


def draw_fold_boxes(path: Path, rows: Mapping[str, ModelScores]) -> None:
    """A panel per fold and a box of gene correlations per model in it, as a PNG."""
    folds = sorted({number for scores in rows.values() for number in scores.folds})
    width = 1.2 + len(folds) * (0.6 + 0.35 * len(rows))
    with _figure(path, width, 4.2) as figure:
        panels = figure.subplots(1, len(folds), squeeze=False, sharey=True)[0]
        for number, axis in zip(folds, panels, strict=True):
            with_fold = {name: s.folds[number].pcc for name, s in rows.items() if number in s.folds}
            known = [pcc[np.isfinite(pcc)] for pcc in with_fold.values()]
            axis.boxplot(known, tick_labels=list(with_fold), widths=0.6)
            axis.tick_params(axis="x", rotation=90)
            axis.axhline(0, color="0.6", linestyle=":")
            axis.set_title(f"fold {number}")
        panels[0].set_ylabel("correlation over spots, one value per gene")


def draw_model_maps(path: Path, maps: Maps) -> None:
    """A row per gene: measured, then predicted by every model, each on its own colour scale.

    The correlation is in the title; scales are each picture's own, since models differ in offset.
    """
    n_rows, n_columns = len(maps.genes), 1 + len(maps.predicted)
    with _figure(path, 1.9 * n_columns, 2.2 * n_rows) as figure:
        rows = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
        for index, (gene, axes) in enumerate(zip(maps.genes, rows, strict=True)):
            measured = maps.measured[:, index]
            _draw(axes[0], maps.level0_xy, measured, f"{gene} measured")
            for axis, (name, values) in zip(axes[1:], maps.predicted.items(), strict=True):
                pcc = gene_correlations(measured[:, None], values[:, index : index + 1])[0]
                _draw(axis, maps.level0_xy, values[:, index], f"{name} {pcc:.2f}")
        rows[0][0].yaxis.set_inverted(True)
        figure.suptitle(maps.section)


def _maps(
    study: Study, label: str, rows: Mapping[str, ModelScores], deployed: Sequence[Deployment]
) -> Maps | None:
    """The section that was predicted with the exported models; None where none was."""
    predicted = {d.cell.model: found for d in deployed if (found := d.prediction()) is not None}
    if not predicted:
        return None
    prepared = open_prepared(deployed[0].cell.prepared)
    section = prepared.sections[deployed[0].section]
    genes = _genes(study, label, rows, [names for _, names in predicted.values()])
    panel = next(iter(predicted.values()))[1]
    labels = section.labels(panel, prepared.label_transform)
    return Maps(
        section=deployed[0].section,
        level0_xy=section.measured.level0_xy,
        genes=genes,
        measured=labels[:, [panel.index(gene) for gene in genes]],
        predicted={
            name: values[:, [names.index(gene) for gene in genes]]
            for name, (values, names) in predicted.items()
        },
    )


def _genes(
    study: Study, label: str, rows: Mapping[str, ModelScores], panels: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """Those asked for, or the best of the reference that every model predicts."""
    entry = study.config.maps.get(label)
    shared = set(panels[0]).intersection(*panels[1:])
    if entry is not None and entry.genes:
        return tuple(gene for gene in entry.genes if gene in shared)
    scores = rows.get(study.config.reference or "", next(iter(rows.values())))
    ranked = [scores.genes[i] for i in scores.top().tolist()]
    best = [gene for gene in ranked if gene in shared][:N_MAPS]
    return tuple(best or sorted(shared)[:N_MAPS])


def _draw(axis: Any, level0_xy: NDArray[np.float64], values: NDArray[Any], title: str) -> None:
    area = float(np.clip(6_000 / len(level0_xy), 1, 40))  # points squared
    axis.scatter(*level0_xy.T, c=values, s=area, cmap=COLORS)
    axis.set_title(title, fontsize=8)
    axis.set(aspect="equal", xticks=[], yticks=[])


@contextmanager
def _figure(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    yield figure
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
