"""Every spot is in exactly one region, and no region has a single spot."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import spot_regions


def _regions(xy: Sequence[tuple[float, float]], region_mm: float | None) -> list[list[int]]:
    """At 0.5 um/px, so that 2,000 px are a millimeter."""
    return [rows.tolist() for rows in spot_regions(np.array(xy, float), 0.5, region_mm)]


def test_without_a_size_the_slide_is_one_region() -> None:
    assert _regions([(0, 0), (9e5, 9e5)], None) == [[0, 1]]


def test_spots_fall_into_squares_from_the_corner_of_the_slide() -> None:
    xy = [(1999, 10), (2001, 10), (10, 1999), (3999, 1999), (5000, 5000), (5001, 5000)]
    assert _regions(xy, 1.0) == [[0, 2], [1, 3], [4, 5]]


def test_spot_alone_joins_the_region_of_the_nearest_spot() -> None:
    xy = [(100, 100), (200, 100), (2100, 100), (4100, 100), (4200, 100)]
    assert _regions(xy, 1.0) == [[0, 1, 2], [3, 4]]


def test_region_for_each_spot_becomes_one_for_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _regions([(0, 0), (2500, 0), (0, 2500)], 1.0) == [[0, 1, 2]]
    assert "each region has one spot" in caplog.text


def test_every_spot_is_in_exactly_one_region() -> None:
    rng = np.random.default_rng(5)
    xy = rng.uniform(0, 30_000, (500, 2))
    regions = spot_regions(xy, 0.5, 2.0)
    assert sorted(np.concatenate(regions).tolist()) == list(range(500))
    assert min(map(len, regions)) >= 2
    assert len(regions) > 20


@pytest.mark.parametrize("region_mm", [0.0, -1.0, 0.01, float("nan"), float("inf")])
def test_impossible_size_is_named(region_mm: float) -> None:
    with pytest.raises(ConfigError, match="region_mm="):
        PredictOptions(region_mm=region_mm)
