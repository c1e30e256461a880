"""A whole slide as a query: its stages, its metadata, its cost in warnings."""

import logging
from pathlib import Path

import pytest

from triplex_deploy.bench.machine import WallClock
from triplex_deploy.bench.result import END_TO_END
from triplex_deploy.bench.slide_work import SlideWork, split_run
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.model import Model


def test_run_is_split_into_stages_and_graphs() -> None:
    run = {
        "timings_s": {
            "spots": 0.1,
            "plan": 0.2,
            "tile_encoder": 3.0,
            "fusion_head": 1.0,
            "gather": 0.5,
            "total": 9.0,
        },
        "idle_s": {"encode source": 4.0, "encode workers": 0.25},
    }
    stages, graphs = split_run(run, ("tile_encoder", "fusion_head"))
    assert stages == {
        "decode": 0.25,
        "prepare": pytest.approx(0.3),
        "compute": 4.0,
        "gather": 0.5,
    }
    assert graphs == {"tile_encoder": 3.0, "fusion_head": 1.0}


def test_run_that_does_not_tell_its_idle_time_has_no_decode_stage() -> None:
    assert split_run({"timings_s": {"total": 1.0}}, ()) == ({}, {})


def test_slide_is_predicted_and_written_and_warned_about_once(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "small.tif"
    synthesize_slide(path, 700, 700, 0.5, seed=5)
    options = PredictOptions(all_tiles=True, region_mm=0.1)  # smaller than a spot
    work = SlideWork(model, path, options, WallClock())
    with caplog.at_level(logging.WARNING, "triplex_deploy.pipeline"):
        first, second = work.query(), work.batch(1)
    assert first.rows == second.rows == 9
    assert {"compute", "prepare", "write"} <= set(first.seconds)
    assert set(work.graph_seconds()) == set(model.sessions)
    assert (work.graph, work.metadata["slide"], work.metadata["spots"]) == (
        END_TO_END,
        "small.tif",
        9,
    )
    assert sum("each region has one spot" in message for message in caplog.messages) == 1
