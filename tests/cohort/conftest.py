"""Slides and a folder for results; the model is a stub."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cohort.stub_model import StubOpener, write_slide
from triplex_deploy.cohort.job import Job
from triplex_deploy.progress import Progress, Silent


class NobodyWatches:
    """A ``Watcher`` that shows nothing."""

    def progress(self, _job: Job) -> Progress:
        return Silent()


@pytest.fixture
def watcher() -> NobodyWatches:
    return NobodyWatches()


@pytest.fixture
def opening(tmp_path: Path) -> StubOpener:
    traces = tmp_path / "traces"
    traces.mkdir()
    return StubOpener(traces)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def slides(tmp_path: Path) -> list[Path]:
    """Four slides of different brightness; names have spaces and letters beyond ASCII."""
    folder = tmp_path / "slides"
    folder.mkdir()
    return [write_slide(folder / f"Übersicht {i}.png", 100 + 20 * i) for i in range(4)]


@pytest.fixture(autouse=True)
def _level_restored() -> Iterator[None]:
    """Restore the log level, which workers set; tests call them in this process, too."""
    logger = logging.getLogger("triplex_deploy")
    before = logger.level
    yield
    logger.setLevel(before)
