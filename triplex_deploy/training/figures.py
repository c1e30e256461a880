"""Draw the pictures of an evaluation: correlations of genes and folds, and maps of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import PNG_MARK

DPI: Final = 120
COLORS: Final = "magma"
UNITS_WIDTH: Final = 36
"""Longest line of the units beside a color scale, in letters."""
_CORRELATION: Final = "correlation over spots"


@dataclass(frozen=True, eq=False)
class GeneMap:
    """Holds a gene at the N spots of a slide."""

    gene: str
    """Symbol of the gene."""
    measured: NDArray[np.floating[Any]]
    """Labels (N,)."""
    predicted: NDArray[np.floating[Any]]
    """Predictions (N,)."""
    pcc: float
    """Correlation of both."""


def draw_histogram(path: Path, pcc: Sequence[float | None]) -> None:
    """Write a PNG with the histogram of the correlations of genes."""
    with _figure(path, 5, 3.2) as figure:
        axis = figure.subplots()
        axis.hist(_known(pcc), bins=np.linspace(-1, 1, 41).tolist())
        axis.set(xlabel=_CORRELATION, ylabel="genes")


def draw_folds(path: Path, pcc_of_fold: Mapping[str, Sequence[float | None]]) -> None:
    """Write a PNG with a box of gene correlations per fold, whiskers at 1.5 quartile ranges."""
    with _figure(path, 1.5 + 0.7 * len(pcc_of_fold), 3.6) as figure:
        axis = figure.subplots()
        axis.boxplot([_known(pcc) for pcc in pcc_of_fold.values()], tick_labels=list(pcc_of_fold))
        axis.axhline(0, color="0.6", linestyle=":")
        axis.set(xlabel="fold", ylabel=_CORRELATION)


def draw_maps(
    path: Path, level0_xy: NDArray[np.float64], maps: Sequence[GeneMap], units: str = ""
) -> None:
    """Write a PNG with a row per gene: measured left, predicted right, on one color scale.

    Args:
        path: The file.
        level0_xy: Spot centers (N, 2) in level-0 pixels, y downwards.
        maps: The genes.
        units: Units of the values, written at the color scale.
    """
    with _figure(path, 8, 3.4 * len(maps)) as figure:
        rows = figure.subplots(len(maps), 2, squeeze=False, sharex=True, sharey=True)
        for axes, gene_map in zip(rows, maps, strict=True):
            _draw_pair(figure, axes, level0_xy, gene_map, units)


def _draw_pair(
    figure: Any, axes: Any, level0_xy: NDArray[np.float64], gene_map: GeneMap, units: str
) -> None:
    both = np.concatenate([gene_map.measured, gene_map.predicted])
    area = float(np.clip(20_000 / len(level0_xy), 2, 80))  # points squared
    titles = (f"{gene_map.gene} measured", f"{gene_map.gene} predicted, PCC {gene_map.pcc:.2f}")
    for axis, values, title in zip(
        axes, (gene_map.measured, gene_map.predicted), titles, strict=True
    ):
        drawn = axis.scatter(
            *level0_xy.T, c=values, s=area, cmap=COLORS, vmin=both.min(), vmax=both.max()
        )
        axis.set(title=title, aspect="equal", xticks=[], yticks=[])
    axes[0].yaxis.set_inverted(True)
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.8)
    bar.set_label("\n".join(wrap(units, UNITS_WIDTH)), fontsize="small")


@contextmanager
def _figure(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    yield figure
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata=PNG_MARK)


def _known(pcc: Sequence[float | None]) -> list[float]:
    return [value for value in pcc if value is not None and np.isfinite(value)]
