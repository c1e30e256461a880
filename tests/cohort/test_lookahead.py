"""While a GPU encodes a slide, the next one is opened and planned; on the stand-in GPU.

That it runs beside is shown by waiting for it: the first slide goes on only when the second is
planned, so that a test would fail, not hang, if it were not.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.cohort.stub_model import StubOpener, job_of, stub_bundle, write_slide
from tests.gpu.computed_model import computed_model
from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.cohort import lookahead as lookahead_module
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.pipeline.prepared import NextSlide
from triplex_deploy.progress import Progress, Silent, WallClock
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget

PATIENCE_S = 60.0


@dataclass(frozen=True)
class GpuOpener(StubOpener):
    """Open the fake model on the stand-in GPU."""

    def open(self, clock: WallClock | None = None) -> Model:
        gpu = StandInGpu()
        return computed_model(gpu, StandInTensorrt(gpu), MemoryBudget())


class Watching:
    """Records the stages of each slide; at the end of encoding it waits for what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.wait_for: dict[str, threading.Event] = {}

    def progress(self, job: Job) -> Progress:
        return _Stages(self, job.slide.stem)


class _Stages(Silent):
    def __init__(self, watching: Watching, name: str) -> None:
        self.watching, self.name = watching, name

    def start(self, stage: str, total: int) -> None:
        self.watching.events.append(f"{self.name}: {stage}")
        if stage == "comparing spots" and self.name in self.watching.wait_for:
            assert self.watching.wait_for[self.name].wait(PATIENCE_S), "nothing was prepared"


class Recorded(NextSlide):
    """Tells when its slide is planned, and what became of it."""

    planned: dict[str, threading.Event]
    closed: list[str]

    def _prepare(self, check: Any) -> Any:
        try:
            return super()._prepare(check)
        finally:
            self.planned.setdefault(self._path.stem, threading.Event()).set()

    def close(self, kind: type[BaseException] | None = None) -> None:
        self.closed.append(self._path.stem)
        super().close(kind)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorded]]:
    monkeypatch.setattr(Recorded, "planned", {}, raising=False)
    monkeypatch.setattr(Recorded, "closed", [], raising=False)
    monkeypatch.setattr(lookahead_module, "NextSlide", Recorded)
    yield Recorded
    names = [thread.name for thread in threading.enumerate()]
    assert "next slide" not in names


def predict(jobs: list[Job], opener: StubOpener, watching: Watching) -> list[Outcome]:
    choice = ExecutorChoice()
    return list(run_jobs(jobs, stub_bundle(), lambda n: choice.make(opener, watching, n)))


def test_the_next_slide_is_planned_while_this_one_is_encoded(
    slides: list[Path], out: Path, opening: StubOpener, tmp_path: Path, recorded: type[Recorded]
) -> None:
    watching = Watching()
    names = [slide.stem for slide in slides]
    for name, following in pairwise(names):
        recorded.planned[following] = watching.wait_for[name] = threading.Event()
    outcomes = predict(
        [job_of(slide, out) for slide in slides], GpuOpener(opening.bundle), watching
    )
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert recorded.closed == []
    alone = [job_of(slide, tmp_path / "alone") for slide in slides]
    predict(alone, opening, Watching())
    for job in alone:
        with h5py.File(job.h5ad_path) as one, h5py.File(out / job.h5ad_path.name) as two:
            np.testing.assert_allclose(one["X"][:], two["X"][:], atol=1e-5)


def test_a_damaged_next_slide_fails_alone(
    slides: list[Path], out: Path, opening: StubOpener, recorded: type[Recorded]
) -> None:
    slides[1].write_bytes(b"not a slide")
    outcomes = predict(
        [job_of(slide, out) for slide in slides], GpuOpener(opening.bundle), Watching()
    )
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done", "done"]
    assert "not a slide" in (outcomes[1].error or "") or slides[1].name in (outcomes[1].error or "")


def test_a_slide_that_is_not_needed_any_more_is_closed(
    slides: list[Path], out: Path, opening: StubOpener, recorded: type[Recorded]
) -> None:
    """The second slide is completed elsewhere while the first is predicted."""
    first, second, third = (job_of(slide, out) for slide in slides[:3])

    class CompletesSecond(Watching):
        def progress(self, job: Job) -> Progress:
            if job.slide == first.slide:
                predict([second], opening, Watching())
            return super().progress(job)

    gpu = GpuOpener(opening.bundle)
    outcomes = predict([first, second, third], gpu, CompletesSecond())
    assert [outcome.status for outcome in outcomes] == ["done", "skipped", "done"]
    assert recorded.closed == [second.slide.stem]


def test_nothing_is_prepared_ahead_on_a_cpu(
    slides: list[Path], out: Path, opening: StubOpener, recorded: type[Recorded]
) -> None:
    predict([job_of(slide, out) for slide in slides], opening, Watching())
    assert recorded.planned == {}


def test_a_slide_that_is_replaced_after_it_was_opened_is_an_error(
    slides: list[Path], out: Path, opening: StubOpener, recorded: type[Recorded]
) -> None:
    watching = Watching()
    second = slides[1].stem
    recorded.planned[second] = watching.wait_for[slides[0].stem] = threading.Event()

    class Replaces(Watching):
        wait_for = watching.wait_for

        def progress(self, job: Job) -> Progress:
            if job.slide == slides[1]:
                write_slide(slides[1], 77)
            return super().progress(job)

    replaces = Replaces()
    replaces.wait_for = watching.wait_for
    outcomes = predict(
        [job_of(slide, out) for slide in slides[:2]], GpuOpener(opening.bundle), replaces
    )
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    assert "replaced" in (outcomes[1].error or "") or "changed" in (outcomes[1].error or "")
