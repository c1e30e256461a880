"""One worker on each GPU over one queue of slides; the model is a stub, there is no GPU."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.stub_model import StubOpener, job_of, stub_bundle, write_slide
from triplex_deploy.cohort import executor
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import SerialExecutor
from triplex_deploy.cohort.slide_worker import SlideProgram
from triplex_deploy.errors import BackendError

TWO = "cuda:0,cuda:2"


def predict(
    jobs: list[Job], opening: StubOpener, watcher: Any, workers: int | None = None
) -> list[Outcome]:
    choice = ExecutorChoice("local", workers, logging.WARNING)
    return list(run_jobs(jobs, stub_bundle(), lambda n: choice.make(opening, watcher, n)))


def opened_on(opening: StubOpener) -> list[str]:
    """Return the device that each process opened."""
    return sorted(path.read_text() for path in opening.bundle.iterdir() if path.name.isdigit())


def programs_of(device: str, n_jobs: int, monkeypatch: pytest.MonkeyPatch, **choice: Any) -> Any:
    """Return the programs of the workers that would be started."""
    found: list[SlideProgram] = []

    def take(programs: list[SlideProgram], limit: int, _: Any) -> Any:
        assert len(programs) == limit
        found.extend(programs)

    monkeypatch.setattr("triplex_deploy.cohort.process_workers.ProcessWorkers", take)
    monkeypatch.setattr(executor, "usable_cores", lambda: 16)
    monkeypatch.setattr(executor, "cuda_device_count", lambda: 4)
    opener = StubOpener(Path("bundle"), device, gpu_memory_gb=8.0)
    ExecutorChoice(**choice).make(opener, SilentWatcher(), n_jobs)
    return found


class SilentWatcher:
    def progress(self, job: Job) -> Any:
        raise AssertionError(job)


def test_every_gpu_gets_a_worker_and_its_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = programs_of("cuda:all", 100, monkeypatch)
    assert [program.opener.device for program in programs] == [f"cuda:{n}" for n in range(4)]
    assert {program.opener.threads for program in programs} == {4}
    assert {program.opener.gpu_memory_gb for program in programs} == {8.0}
    assert {program.n_sharing for program in programs} == {4}


def test_few_slides_start_few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = programs_of(TWO + ",cuda:3", 2, monkeypatch)
    assert [program.opener.device for program in programs] == ["cuda:0", "cuda:2"]
    assert {program.opener.threads for program in programs} == {8}


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = programs_of(TWO, 100, monkeypatch, workers=4)
    assert [program.opener.device for program in programs] == ["cuda:0", "cuda:2"] * 2
    assert {program.opener.gpu_memory_gb for program in programs} == {4.0}


def test_a_single_slide_takes_the_first_gpu(opening: StubOpener) -> None:
    several = StubOpener(opening.bundle, TWO)
    serial = ExecutorChoice().make(several, SilentWatcher(), 1)
    assert isinstance(serial, SerialExecutor)
    with serial:
        assert opened_on(several) == ["cuda:0"]


@pytest.mark.lengthy
def test_slides_are_shared_among_the_gpus(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    several = StubOpener(opening.bundle, TWO, delay_s=0.05)
    outcomes = predict([job_of(slide, out) for slide in slides], several, watcher)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert opened_on(several) == ["cuda:0", "cuda:2"]


@pytest.mark.lengthy
def test_a_worker_that_lost_its_gpu_is_replaced_on_the_same_gpu(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any, tmp_path: Path
) -> None:
    (opening.bundle / "loses_gpu").touch()
    several = StubOpener(opening.bundle, TWO, delay_s=0.05)
    deadly = write_slide(tmp_path / "bright.png", 255)
    outcomes = predict([job_of(slide, out) for slide in [deadly, *slides]], several, watcher)
    assert [outcome.status for outcome in outcomes] == ["done"] * 5
    devices = opened_on(several)
    assert set(devices) == {"cuda:0", "cuda:2"}
    assert len(devices) == 3


@pytest.mark.parametrize("device", ["cuda:1", TWO])
def test_a_ray_cluster_gives_out_its_gpus_itself(device: str) -> None:
    pytest.importorskip("ray", reason="Ray is absent: pip install 'triplex-deploy[cluster]'")
    with pytest.raises(BackendError, match="Ray gives each actor its GPU; pass --device cuda:all"):
        ExecutorChoice("ray").make(StubOpener(Path("b"), device), SilentWatcher(), 3)
