"""The Visium lattice over any slide."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial import KDTree

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots import TissueMask, check_spots, visium_spots
from triplex_deploy.spots.lattice import infer_lattice

Maker = Callable[..., Slide]


def test_lattice_geometry_and_convention(array_slide: Maker) -> None:
    slide = array_slide(np.zeros((1000, 1600, 3), np.uint8), 0.5)
    tissue = TissueMask(np.ones((5, 8), np.bool_), (200.0, 200.0))
    spots = visium_spots(slide, 0.5, tissue)
    check_spots(spots, (1600, 1000))
    assert (spots.layout, spots.spot_diameter_px) == ("visium", 110.0)
    assert spots.names[:3] == ("0x0", "2x0", "4x0")
    assert spots.level0_xy[0].tolist() == [55.0, 55.0]
    assert (spots.grid_rc.sum(axis=1) % 2 == 0).all()
    distances = KDTree(spots.level0_xy).query(spots.level0_xy, k=2)[0][:, 1]
    assert np.allclose(distances, 200.0)  # 100 um
    assert (spots.level0_xy >= 55).all()
    assert (spots.level0_xy <= np.array([1545, 945])).all()
    assert len(spots.names) == 45  # 6 rows, of 8 and 7 spots in turn


def test_lattice_is_what_inference_recovers(array_slide: Maker) -> None:
    slide = array_slide(np.zeros((1000, 1600, 3), np.uint8), 0.5)
    spots = visium_spots(slide, 0.5, TissueMask(np.ones((5, 8), np.bool_), (200.0, 200.0)))
    assert np.array_equal(infer_lattice(spots.level0_xy).grid_rc, spots.grid_rc)


def test_only_spots_on_tissue_are_kept(array_slide: Maker) -> None:
    slide = array_slide(np.zeros((1000, 1600, 3), np.uint8), 0.5)
    mask = np.zeros((5, 8), np.bool_)
    mask[:, :4] = True
    spots = visium_spots(slide, 0.5, TissueMask(mask, (200.0, 200.0)))
    assert spots.level0_xy[:, 0].max() <= 800
    with pytest.raises(SpotsError, match="no Visium spot"):
        visium_spots(slide, 0.5, TissueMask(mask & False, (200.0, 200.0)))


def test_slide_smaller_than_a_spot_is_refused(array_slide: Maker) -> None:
    slide = array_slide(np.zeros((50, 90, 3), np.uint8), 0.5)
    with pytest.raises(SpotsError, match="no Visium spot"):
        visium_spots(slide, 0.5, TissueMask(np.ones((2, 2), np.bool_), (45.0, 25.0)))
