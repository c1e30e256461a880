"""The quick look at a thumbnail: what it must notice, and that real H&E passes."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.slides import open_slide, thumbnail
from triplex_deploy.slides.brightfield import not_brightfield_he

HEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
"""Optical density of stains in red, green and blue (Ruifrok and Johnston 2001)."""


def stained(*stains: tuple[float, float, float], share: float = 0.4) -> np.ndarray:
    """Return a picture (80, 80, 3) of patches of these stains on a bright background."""
    rng = np.random.default_rng(0)
    amount = rng.gamma(2.0, 0.5, (80, 80, len(stains))) * (rng.random((80, 80, 1)) < share)
    return np.clip(245 * np.exp(-amount @ np.array(stains)), 0, 255).astype(np.uint8)


def test_h_and_e_passes_and_brown_does_not() -> None:
    assert not_brightfield_he(stained(HEMATOXYLIN, EOSIN)) is None
    assert not_brightfield_he(stained(HEMATOXYLIN)) is None
    assert not_brightfield_he(stained(DAB)) == "its stain is brown, as in immunohistochemistry"


def test_dark_background_is_noticed() -> None:
    picture = np.zeros((50, 50, 3), np.uint8)
    picture[:20] = (0, 0, 200)
    assert not_brightfield_he(picture) == "60% of it is dark, as in fluorescence"
    assert not_brightfield_he(picture[:30]) is None


def test_picture_without_stain_says_nothing() -> None:
    assert not_brightfield_he(np.full((50, 50, 3), 240, np.uint8)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("slides/CMU-1-Small-Region.svs", None),
        ("slides/kidney-48-5.tif", None),
        ("slides/OS-1-detail.ome.tif", None),
        ("slides/test3-DAPI-2-387.ndpi", "as in fluorescence"),
    ],
)
def test_real_slides(shared_data: Path, name: str, reason: str | None) -> None:
    with open_slide(shared_data / name) as slide:
        found = not_brightfield_he(thumbnail(slide, 500))
    assert found is None if reason is None else reason in str(found)
