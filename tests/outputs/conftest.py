"""A prediction small enough to write in a moment, large enough to have structure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.outputs.browser import Browser, find_browser
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.measured import Measured

RUN: dict[str, Any] = {
    "bundle_id": "sha256:0f3a",
    "layout": "grid",
    "bundle_mpp": 0.5,
    "n_spots": 30,
    "resampled": False,
    "device": None,
    "versions": {"triplex_deploy": "0.1.0", "onnxruntime": "1.22.0"},
    "timings": {"decode_s": 1.25, "encode_s": 7.5, "passes": [1, 2]},
    "notes": ["coordinates were inferred", "<b>µm</b>"],
}


@pytest.fixture
def prediction() -> Prediction:
    rows, columns = np.divmod(np.arange(30), 6)
    rng = np.random.default_rng(3)
    smooth = np.sin(columns / 3) + np.cos(rows / 2)
    weaker = np.cos(columns / 2) + rng.normal(size=30) / 2
    expression = np.stack([smooth, weaker, np.full(30, 0.5)], axis=1)
    return Prediction(
        slide_name="section A",
        expression=expression.astype(np.float32),
        genes=("GNAS", "FASN", "ERBB2"),
        level0_xy=np.stack([columns * 448 + 300.5, rows * 448 + 260.0], axis=1),
        grid_rc=np.stack([rows, columns], axis=1).astype(np.int64),
        slide_size_wh=(3200, 2400),
        slide_mpp=0.25,
        spot_diameter_px=448.0,
        thumbnail=rng.integers(180, 255, (600, 800, 3), np.uint8),
        run=RUN,
    )


@pytest.fixture
def large_prediction(prediction: Prediction) -> Prediction:
    """5000 spots and 250 genes of noise, which nothing compresses."""
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(5000), 100)
    return replace(
        prediction,
        expression=rng.random((5000, 250), np.float32),
        genes=tuple(f"GENE{index}" for index in range(250)),
        level0_xy=np.stack([columns, rows], axis=1).astype(float),
        grid_rc=np.stack([rows, columns], axis=1).astype(np.int64),
        thumbnail=rng.integers(120, 255, (2000, 2000, 3), np.uint8),  # incompressible
    )


@pytest.fixture
def measured(prediction: Prediction) -> Measured:
    """Twice the prediction and noise; the first two spots and the last gene were not measured."""
    rng = np.random.default_rng(5)
    values = 2 * prediction.expression + rng.normal(size=(30, 3)).astype(np.float32)
    values[:2] = np.nan
    values[:, 2] = np.nan
    return Measured(values, np.array([0.9, -0.25, np.nan]), "From <counts>.")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        pytest.skip("no chromium with chromedriver on this machine")
    profile = tmp_path_factory.mktemp("profile")
    browser = Browser(*found, profile, ("--window-size=1280,1000",))
    yield browser
    browser.close()
