"""What the prediction benchmark makes of its measurements."""

from pathlib import Path

import pytest

from benchmarks.bench_predict import cpu_shares
from benchmarks.predicting.large import write_large_slide
from triplex_deploy import open_slide


def test_cpu_time_is_shared_out_between_encoders_slide_and_the_rest() -> None:
    cpu_s = {
        "total": 112.0,
        "tuning": 2.0,
        "sessions": 1.0,
        "spots": 2.0,
        "thumbnail": 5.0,
        "tile_encoder": 50.0,
        "target_encoder": 30.0,
        "neighbor_encoder": 8.0,
        "global_encoder": 2.0,
        "fusion_head": 4.0,
    }
    shares = cpu_shares(cpu_s, writing_s=10.0)
    assert shares["once_per_slide_cpu_share"] == pytest.approx(18 / 120)
    assert shares["non_encoder_cpu_share"] == pytest.approx(12 / 120)


def test_large_slide_is_the_grid_and_nothing_else(tmp_path: Path) -> None:
    """Then no spot has neighbours that are no spots, and each costs the same."""
    with open_slide(write_large_slide(tmp_path / "slide.tif", 5)) as slide:
        assert slide.level_sizes == ((1120, 1120), (280, 280))
        assert slide.read(0, 0, 0, 256, 256).std() > 10
