"""What a prediction says before it runs: its cost, and that it has few spots."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy.pipeline import cost
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.cost import announce_cost, expected_seconds, in_words
from triplex_deploy.pipeline.tuning import (
    Setting,
    choose_setting,
    default_setting,
    measured_tiles_per_s,
)
from triplex_deploy.progress import Silent
from triplex_deploy.tiles.plan import TilePlan, plan_tiles


@pytest.fixture
def context() -> PredictionContext:
    model = fake_model(fake_config())
    return PredictionContext(model, Silent(), model.sessions, Setting(2, 4))


def plan_of(n_spots: int) -> TilePlan:
    rows, columns = np.divmod(np.arange(n_spots), 100)
    centers = np.stack([columns * 224 + 2000, rows * 224 + 2000], axis=1).astype(np.int64)
    return plan_tiles(centers, (100_000, 100_000))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_long_prediction_says_tiles_and_minutes(
    context: PredictionContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(2000)
    calls = len(plan.origins_xy) + 2000  # the tile encoder takes all, the target encoder targets
    monkeypatch.setattr(cost, "measured_tiles_per_s", lambda *_: calls / 600)
    assert expected_seconds(context, plan) == pytest.approx(600)
    announce_cost("slide.svs", context, plan, "grid")
    tiles = f"{len(plan.origins_xy):,} tiles to encode"
    assert warned(caplog) == [f"slide.svs: {tiles} for 2,000 spots, about 10 minutes here"]


def test_a_short_prediction_says_nothing_but_on_a_visium_lattice(
    context: PredictionContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(100)
    for rate in (1e6, None):
        monkeypatch.setattr(cost, "measured_tiles_per_s", lambda *_, rate=rate: rate)
        announce_cost("slide.svs", context, plan, "grid")
    assert warned(caplog) == []
    announce_cost("slide.svs", context, plan, "visium")
    (text,) = warned(caplog)
    assert "tiles to encode for 100 spots; on a Visium lattice spots hardly share tiles" in text
    caplog.clear()
    announce_cost("slide.svs", context, plan_of(2000), "visium")  # 1.25 tiles per spot: as a grid
    assert warned(caplog) == []


def test_few_spots_are_told(context: PredictionContext, caplog: pytest.LogCaptureFixture) -> None:
    announce_cost(Path("slide.svs"), context, plan_of(1), "grid")
    announce_cost(Path("slide.svs"), context, plan_of(9), "file")
    announce_cost(Path("slide.svs"), context, plan_of(10), "file")
    one, nine = warned(caplog)
    assert one.startswith("slide.svs: 1 spot, too few to say where a gene is high")
    assert nine.startswith("slide.svs: 9 spots, too few")


def test_rate_is_the_one_that_was_measured_for_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = fake_model(fake_config(), delay_s=0.001)
    setting = default_setting(model.device)
    assert measured_tiles_per_s(model, setting) is None
    chosen = choose_setting(model, model.sessions, 1000)
    rate = measured_tiles_per_s(model, chosen)
    assert rate is not None
    assert 0 < rate < 1e6
    assert measured_tiles_per_s(model, Setting(chosen.workers, 999)) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "10 seconds"),
        (64, "60 seconds"),
        (100, "2 minutes"),
        (3600, "60 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_times_are_rough(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
