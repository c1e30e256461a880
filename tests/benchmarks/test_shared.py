"""The benchmark of shared neighborhoods: its lattice, its bundles and its ratios."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from benchmarks.predicting.shared import Place, measure_shared, shared_bundle, visium_lattice
from tests.conftest import BUNDLE_MPP
from triplex_deploy.bench.script import add_round, script_case
from triplex_deploy.bundle import read_bundle
from triplex_deploy.contract import Neighborhood
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.models import read_checkpoint
from triplex_deploy.runtime.model import RunnableBundle


@pytest.mark.parametrize("count", [20, 2000])
def test_lattice_is_hexagonal_with_100_um_between_spots(count: int) -> None:
    spots = visium_lattice(count, 0.5)
    assert len(spots.level0_xy) == count
    distance = cKDTree(spots.level0_xy).query(spots.level0_xy, k=7)[0] * 0.5
    np.testing.assert_allclose(distance[:, 1], 100)
    if count > 100:
        assert np.isclose(distance[:, 6], 100).mean() > 0.8  # inside, six neighbors
    width, height = np.ptp(spots.level0_xy, axis=0)
    assert 0.6 < width / height < 1.7


@pytest.mark.slow
def test_array_and_lattice_are_timed_with_shared_neighbors(
    bundle: RunnableBundle, checkpoint_path: Path, tmp_path: Path
) -> None:
    synthesize_slide(tmp_path / "slide.tif", 1792, 1792, BUNDLE_MPP, seed=1)
    array = Place(tmp_path / "slide.tif", visium_lattice(2, BUNDLE_MPP), BUNDLE_MPP)
    lattice = Place(tmp_path / "slide.tif", visium_lattice(6, BUNDLE_MPP), BUNDLE_MPP)
    reference = script_case("spots, published way", "made up")
    add_round(reference, 1000.0, 1000.0)
    cases, ratios, limits = measure_shared(
        read_checkpoint(checkpoint_path),
        {"fp32": bundle.path},
        array,
        reference,
        lattice,
        tmp_path,
        timed_spots=1,
    )
    strides = [case.work.metadata.get("neighborhood_stride_px") for case in cases]
    assert strides == [224, 224, None]
    assert ratios["spots_shared_over_reference"] == 1000 / cases[0].best_s
    assert ratios["visium_shared_over_reference"] == cases[2].best_s / cases[1].best_s
    assert limits["visium_shared_tiles"] < limits["visium_exact_tiles"] == 6 * 25
    assert limits["spots_exact_tiles"] == 2 * 25
    shared = read_bundle(shared_bundle(bundle.path, tmp_path / "shared-fp32"))
    assert shared.config.neighbors == Neighborhood("shared", 224)
    assert bundle.config.neighbors == Neighborhood()
