"""Draw the figures of a study: gene correlations by fold, and genes over a section."""

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
from triplex_deploy.files.ours import PNG_MARK, is_our_png, require_ours
from triplex_deploy.study.config import Study, slug
from triplex_deploy.study.deploy import Deployment
from triplex_deploy.study.results import FinishedCells
from triplex_deploy.study.scores import ModelScores
from triplex_deploy.study.write import FIGURES_DIR
from triplex_deploy.training.prepared import open_prepared

DPI: Final = 120
COLOR_MAP: Final = "magma"
N_MAP_GENES: Final = 3
"""Number of genes drawn if the study names none."""


@dataclass(frozen=True, eq=False)
class SectionMaps:
    """Measured and predicted genes of one section, for N spots and G genes."""

    section: str
    """Name of the section."""
    level0_xy: NDArray[np.float64]
    """(N, 2) centers of the spots in level-0 pixels."""
    genes: tuple[str, ...]
    """Symbols of the genes."""
    measured: NDArray[np.floating[Any]]
    """(N, G) labels."""
    predicted: Mapping[str, NDArray[np.floating[Any]]]
    """(N, G) expression by the model's label."""


def draw_figures(
    study: Study, out: Path, finished: FinishedCells, deployments: Sequence[Deployment]
) -> list[Path]:
    """Draw the figures of a study into ``out``/figures.

    Args:
        study: The study.
        out: Folder of the study's results.
        finished: The finished cells, for the figure of folds.
        deployments: Deployed models, for the maps.

    Returns:
        The files that were drawn.
    """
    (out / FIGURES_DIR).mkdir(parents=True, exist_ok=True)
    drawn = []
    for label in study.config.datasets:
        rows = finished.scores(label, list(study.config.models))
        if not rows:
            continue
        prefix = f"{slug(study.config.name)}-{slug(label)}"
        drawn.append(out / FIGURES_DIR / f"{prefix}-folds.png")
        draw_fold_boxes(drawn[-1], rows)
        maps = _maps(study, label, rows, [d for d in deployments if d.cell.dataset == label])
        if maps is not None:
            drawn.append(out / FIGURES_DIR / f"{prefix}-maps.png")
            draw_model_maps(drawn[-1], maps)
    return drawn


def draw_fold_boxes(path: Path, rows: Mapping[str, ModelScores]) -> None:
    """Write a PNG with a panel for each fold, and in it a box of gene correlations for each model.

    Args:
        path: The file.
        rows: Scores on one data set, by the model's label.
    """
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


def draw_model_maps(path: Path, maps: SectionMaps) -> None:
    """Write a PNG with a row for each gene: measured, then predicted by every model.

    Each picture has its own color scale, as models differ in offset. The correlation is in the
    title.
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
    study: Study, label: str, rows: Mapping[str, ModelScores], deployments: Sequence[Deployment]
) -> SectionMaps | None:
    """Return the genes of the section that was predicted, or None without a prediction."""
    predicted = {d.cell.model: found for d in deployments if (found := d.prediction()) is not None}
    if not predicted:
        return None
    prepared = open_prepared(deployments[0].cell.prepared)
    section = prepared.sections[deployments[0].section]
    genes = _genes(study, label, rows, [names for _, names in predicted.values()])
    panel = next(iter(predicted.values()))[1]
    labels = section.labels(panel, prepared.label_transform)
    return SectionMaps(
        section=deployments[0].section,
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
    """Return the genes to draw: those that the study names, or the best of the reference model."""
    entry = study.config.maps.get(label)
    shared = set(panels[0]).intersection(*panels[1:])
    if entry is not None and entry.genes:
        return tuple(gene for gene in entry.genes if gene in shared)
    scores = rows.get(study.config.reference or "", next(iter(rows.values())))
    ranked = [scores.genes[i] for i in scores.top().tolist()]
    best = [gene for gene in ranked if gene in shared][:N_MAP_GENES]
    return tuple(best or sorted(shared)[:N_MAP_GENES])


def _draw(axis: Any, level0_xy: NDArray[np.float64], values: NDArray[Any], title: str) -> None:
    area = float(np.clip(6_000 / len(level0_xy), 1, 40))  # points squared
    axis.scatter(*level0_xy.T, c=values, s=area, cmap=COLOR_MAP)
    axis.set_title(title, fontsize=8)
    axis.set(aspect="equal", xticks=[], yticks=[])


@contextmanager
def _figure(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    yield figure
    require_ours(path, is_our_png, "a picture")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata=PNG_MARK)
