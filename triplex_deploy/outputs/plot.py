"""Draw predictions for notebooks: one gene with matplotlib, and a summary as HTML."""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from triplex_deploy.errors import OutputError
from triplex_deploy.install import install_command
from triplex_deploy.outputs.cautions import cautions
from triplex_deploy.outputs.color_range import comparable_ranges
from triplex_deploy.outputs.drawable import Drawable
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.pictures import jpeg_base64
from triplex_deploy.outputs.spot_picture import COLORS, draw_gene, shrink
from triplex_deploy.outputs.units import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_PX: Final = 320
"""Longest side of the picture in a notebook."""
UNITS_WIDTH: Final = 36
"""Longest line of the units beside the color scale, in letters."""


def plot_gene(prediction: Drawable, gene: int, axes: Axes | None, cmap: str, alpha: float) -> Axes:
    """Draw a gene on the tissue with matplotlib and return the axes, see ``Prediction.plot``.

    Raises:
        OutputError: If matplotlib is missing.
    """
    try:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Circle, Rectangle
        from matplotlib.pyplot import subplots
    except ImportError as error:
        raise OutputError(
            f"plot: matplotlib is not installed; run `{install_command('plots')}`"
        ) from error
    if axes is None:
        _, axes = subplots(layout="constrained")
    width, height = prediction.slide_size_wh
    axes.imshow(prediction.thumbnail, extent=(0, width, height, 0))
    side = prediction.spot_diameter_px
    spots: list[Any] = [
        Rectangle((x - side / 2, y - side / 2), side, side)
        if prediction.has_square_spots
        else Circle((x, y), side / 2)
        for x, y in prediction.level0_xy.tolist()
    ]
    first, last = comparable_ranges(prediction.expression)
    drawn = PatchCollection(spots, cmap=cmap or COLORS, alpha=alpha, edgecolors="none")
    drawn.set_array(np.ma.masked_invalid(prediction.expression[:, gene]))
    drawn.set_clim(first[gene], last[gene])
    axes.add_collection(drawn)
    axes.set(title=prediction.genes[gene], xticks=[], yticks=[], aspect="equal")
    figure = axes.get_figure()
    assert figure is not None, "axes without a figure"
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("\n".join(wrap(prediction.units or UNKNOWN, UNITS_WIDTH)), fontsize="small")
    return axes


def html_summary(prediction: Drawable) -> str:
    """Return a small picture of the strongest pattern and the main numbers, for a notebook."""
    width, height = (side * prediction.slide_mpp / 1000 for side in prediction.slide_size_wh)
    rows = [
        ("spots", f"{prediction.n_spots:,}"),
        ("genes", f"{len(prediction.genes):,}"),
        ("slide", f"{width:.1f} × {height:.1f} mm"),
        ("values", prediction.units or UNKNOWN),
    ]
    picture = shrink(prediction.thumbnail, PICTURE_PX)
    if prediction.n_spots and prediction.genes:
        moran = morans_i(prediction.expression, prediction.grid_rc)
        best = int(np.nan_to_num(moran, nan=-np.inf).argmax())
        picture = draw_gene(prediction, best, picture)
        rows.append(("picture", f"{prediction.genes[best]}, the strongest pattern"))
    rows += [("caution", text) for text in cautions(prediction.run)]
    cells = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{escape(text)}</td></tr>"
        for name, text in rows
    )
    return (
        f"<div><b>{escape(prediction.slide_name)}</b>"
        "<div style='display:flex;gap:1rem;align-items:start'>"
        f"<img alt='' src='data:image/jpeg;base64,{jpeg_base64(picture)}'>"
        f"<table>{cells}</table></div></div>"
    )
