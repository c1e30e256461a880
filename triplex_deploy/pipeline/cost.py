"""Say what a prediction costs before it runs: tiles to encode, and about how long that takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import numpy as np

from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.needed import FEATURES
from triplex_deploy.pipeline.tuning import measured_tiles_per_s
from triplex_deploy.tiles.plan import TilePlan

LONG_S: Final = 60.0
"""Expected seconds from which a prediction says what it costs."""
FEW_SPOTS: Final = 10
"""Spots below which a prediction says little about where a gene is high."""
COSTLY: Final = 3
"""Tiles per spot from which a lattice shares little; a grid has one or two."""

logger = logging.getLogger(__name__)


def announce_cost(
    path: Path | str, context: PredictionContext, plan: TilePlan, layout: str
) -> None:
    """Warn of a long prediction and of few spots.

    A Visium lattice of which every spot has many tiles of its own is always told, as a grid with as
    many spots needs far fewer.

    Args:
        path: The slide.
        context: The prediction.
        plan: Its tiles.
        layout: Where its spots are from.
    """
    n_spots = len(plan.spot_tile)
    shares_little = layout == "visium" and len(plan.origins_xy) >= COSTLY * n_spots
    if n_spots < FEW_SPOTS:
        noun = "spot" if n_spots == 1 else "spots"
        logger.warning(
            "%s: %d %s, too few to say where a gene is high; check the scale (--mpp), or see the "
            "tissue found in the report",
            path,
            n_spots,
            noun,
        )
    seconds = expected_seconds(context, plan)
    if not shares_little and (seconds or 0.0) < LONG_S:
        return
    text = f"{len(plan.origins_xy):,} tiles to encode for {n_spots:,} spots"
    if seconds is not None:
        text += f", about {in_words(seconds)} here"
    if shares_little:
        text += "; on a Visium lattice spots hardly share tiles, --layout grid needs far fewer"
    logger.warning("%s: %s", path, text)


def expected_seconds(context: PredictionContext, plan: TilePlan) -> float | None:
    """Return about how long encoding takes, from the rate that was measured here; None if unknown.

    Features that a cache has are not taken off.
    """
    rate = measured_tiles_per_s(context.model, context.setting)
    if rate is None:
        return None
    n_targets = len(np.unique(plan.spot_tile))
    calls = sum(
        len(plan.origins_xy) if spec.outputs[0].name == FEATURES else n_targets
        for spec in context.per_tile()
    )
    return calls / rate


def in_words(seconds: float) -> str:
    """Return a time that is only roughly known."""
    if seconds < 90:
        return f"{max(round(seconds / 10) * 10, 10)} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
