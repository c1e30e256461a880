"""Say how like the tissue that the model was trained on the tissue of a slide is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import SlideError
from triplex_deploy.familiarity import FAMILIARITY, UNFAMILIAR_BELOW, read_training_tiles
from triplex_deploy.outputs.cautions import UNLIKE
from triplex_deploy.pipeline.encode import Encoded
from triplex_deploy.pipeline.needed import FEATURES
from triplex_deploy.pipeline.options import OnUnfamiliar
from triplex_deploy.slides.brightfield import not_brightfield_he
from triplex_deploy.tiles.plan import TilePlan

logger = logging.getLogger(__name__)

FAMILIAR_BELOW: Final = 0.05
"""A slide with a smaller share of unfamiliar tiles is like the training sections."""
UNLIKE_ABOVE: Final = 0.4
"""A slide with a larger share shows other tissue, another stain or no H&E at all."""
ROWS: Final = 4096
"""Tiles that are compared at once."""


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How familiar the target tiles of a slide are."""

    per_spot: NDArray[np.float32]
    """(N,) share of the training tiles that are less typical than the spot's tile, 0 to 1."""

    @property
    def unfamiliar_share(self) -> float:
        """Share of the spots that are further away than 99% of the training tiles."""
        return float((self.per_spot < UNFAMILIAR_BELOW).mean())

    @property
    def verdict(self) -> str:
        """The share in words."""
        if self.unfamiliar_share < FAMILIAR_BELOW:
            return "like the training tissue"
        if self.unfamiliar_share <= UNLIKE_ABOVE:
            return "partly unlike the training tissue: another patient, stain or scanner"
        return UNLIKE

    def metadata(self) -> dict[str, Any]:
        """Return the summary for the metadata of the run."""
        return {
            "tissue": self.verdict,
            "unfamiliar_spots": round(self.unfamiliar_share, 4),
            "median_familiarity": round(float(np.median(self.per_spot)), 4),
        }


def measure_familiarity(bundle: Bundle, plan: TilePlan, encoded: Encoded) -> Familiarity | None:
    """Compare the features of the target tiles with those of the training tiles.

    Args:
        bundle: The bundle.
        plan: The tiles of the slide.
        encoded: The outputs of the tiles.

    Returns:
        The familiarity of every spot. None if the model has no frozen features, or the bundle no
        description of its training tiles, as bundles of version 0.1 have not.

    Raises:
        BundleError: If the description cannot be read.
    """
    if FEATURES not in encoded.outputs or FAMILIARITY not in bundle.manifest.files:
        return None
    training = read_training_tiles(bundle.path / FAMILIARITY)
    store = encoded.outputs[FEATURES].store
    targets, spot_target = np.unique(plan.spot_tile, return_inverse=True)
    parts = [
        training.familiarity(store.on_host(targets[begin : begin + ROWS]))
        for begin in range(0, len(targets), ROWS)
    ]
    return Familiarity(np.concatenate(parts)[spot_target])


def judge(path: Path | str, found: Familiarity | None, how: OnUnfamiliar) -> None:
    """Warn of a slide that is unlike the training tissue, or refuse it.

    Args:
        path: The slide.
        found: Its familiarity; nothing happens if it is None.
        how: ``warn``, ``fail`` or ``ignore``.

    Raises:
        SlideError: If the slide is unlike the training tissue and ``how`` is ``fail``.
    """
    if found is None or found.unfamiliar_share <= UNLIKE_ABOVE:
        return
    _object(
        f"{path}: unlike the tissue that the model was trained on ({found.unfamiliar_share:.0%} of "
        "the spots are further from it than 99% of the training tiles)",
        how,
    )


def judge_picture(path: Path | str, picture: NDArray[np.uint8], how: OnUnfamiliar) -> str | None:
    """Warn of a slide that is hardly H&E in brightfield, or refuse it.

    Args:
        path: The slide.
        picture: RGB thumbnail (h, w, 3).
        how: ``warn``, ``fail`` or ``ignore``.

    Returns:
        What speaks against H&E, None if nothing does.

    Raises:
        SlideError: If something speaks against H&E and ``how`` is ``fail``.
    """
    reason = not_brightfield_he(picture)
    if reason is not None:
        _object(f"{path}: hardly an H&E slide in brightfield ({reason})", how)
    return reason


def _object(message: str, how: OnUnfamiliar) -> None:
    if how == "fail":
        raise SlideError(f"{message}; use a model for such slides, or pass --unfamiliar warn")
    if how == "warn":
        logger.warning("%s; do not rely on this prediction", message)
