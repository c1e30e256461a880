"""A prediction small enough to write in a moment, large enough to have structure."""

from typing import Any

import numpy as np
import pytest

from triplex_deploy.outputs import Prediction

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
