"""Several processes share the slides; a process that dies loses at most its own slide."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.cohort.stub_model import StubOpener, job_of, stub_bundle, write_slide
from tests.cohort.stub_program import NamedJob, ProcessIdProgram
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs, threads_each
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import PoolExecutor
from triplex_deploy.cohort.process_workers import ProcessWorkers
from triplex_deploy.errors import BackendError
from triplex_deploy.system import usable_cores

pytestmark = pytest.mark.lengthy

ROOT = Path(__file__).resolve().parents[2]


def _predict(
    jobs: list[Job], opening: StubOpener, watcher: Any, workers: int
) -> dict[str, Outcome]:
    choice = ExecutorChoice("local", workers, logging.WARNING)
    outcomes = run_jobs(jobs, stub_bundle(), lambda n: choice.make(opening, watcher, n))
    return {outcome.job.slide.name: outcome for outcome in outcomes}


def _expression(job: Job) -> np.ndarray:
    with h5py.File(job.h5ad_path) as table:
        return np.asarray(table["X"])


def _processes(opening: StubOpener) -> list[int]:
    return [int(path.name) for path in opening.bundle.iterdir() if path.name.isdigit()]


def test_two_workers_give_what_one_process_gives(
    slides: list[Path], tmp_path: Path, opening: StubOpener, watcher: Any
) -> None:
    alone = [job_of(slide, tmp_path / "alone") for slide in slides]
    shared = [job_of(slide, tmp_path / "shared") for slide in slides]
    _predict(alone, opening, watcher, 1)
    assert _processes(opening) == [os.getpid()]
    outcomes = _predict(shared, opening, watcher, 2)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert len(_processes(opening)) == 3
    for one, two in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(_expression(one), _expression(two))
    assert len({_expression(job).tobytes() for job in shared}) == len(slides)


def test_slide_whose_worker_crashed_is_done_by_another(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    write_slide(slides[1], 255)
    outcomes = _predict([job_of(slide, out) for slide in slides], opening, watcher, 2)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert (opening.bundle / "crashed").exists()
    assert sorted(path.suffix for path in out.iterdir()) == [".h5ad"] * 4 + [".json"] * 4


def test_slide_that_crashes_every_worker_fails_alone(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    write_slide(slides[1], 255)
    (opening.bundle / "always").touch()
    outcomes = _predict([job_of(slide, out) for slide in slides], opening, watcher, 2)
    bad = outcomes.pop(slides[1].name)
    assert bad.status == "failed"
    assert "crashed with SIGSEGV" in (bad.error or "")
    assert {outcome.status for outcome in outcomes.values()} == {"done"}


def test_slide_whose_worker_lost_its_gpu_is_done_by_another(
    slides: list[Path],
    out: Path,
    opening: StubOpener,
    watcher: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_slide(slides[1], 255)
    (opening.bundle / "loses_gpu").touch()
    outcomes = _predict([job_of(slide, out) for slide in slides], opening, watcher, 2)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert len(_processes(opening)) == 3, "the process that lost its GPU took no other slide"
    (retried,) = [text for text in caplog.messages if "trying again" in text]
    assert "its worker lost its GPU (tile_encoder: ONNX Runtime failed (CUDA failure 700" in retried


def test_single_process_that_loses_its_gpu_reports_each_slide(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    write_slide(slides[1], 255)
    (opening.bundle / "loses_gpu").touch()
    (opening.bundle / "always").touch()
    outcomes = _predict([job_of(slide, out) for slide in slides], opening, watcher, 1)
    lost = outcomes.pop(slides[1].name)
    assert lost.status == "failed"
    assert "the GPU's context is lost: run the command again" in (lost.error or "")


def test_worker_killed_from_outside_loses_nothing(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    slow = replace(opening, delay_s=0.1)

    def kill_the_first() -> None:
        while not (found := _processes(slow)):
            time.sleep(0.01)
        time.sleep(0.15)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    outcomes = _predict([job_of(slide, out) for slide in slides], slow, watcher, 2)
    killer.join()
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert len(_processes(slow)) == 3, "the killed one was replaced"


def test_bundle_no_worker_can_open_is_one_error(
    slides: list[Path], out: Path, opening: StubOpener, watcher: Any
) -> None:
    with pytest.raises(BackendError, match="cuda:9"):
        _predict([job_of(s, out) for s in slides], replace(opening, breaks=True), watcher, 2)


def test_warnings_of_a_worker_come_home_with_the_outcome(
    slides: list[Path], tmp_path: Path, out: Path, opening: StubOpener, watcher: Any
) -> None:
    spots = tmp_path / "spots.csv"
    spots.write_text("pixel_x,pixel_y\n120,120\n320,120\n120,320\n320,320\n")
    jobs = [job_of(slide, out, all_tiles=False, spots=spots) for slide in slides[:2]]
    for outcome in _predict(jobs, opening, watcher, 2).values():
        assert any("were inferred" in text for _, text in outcome.messages)


def test_what_a_worker_says_while_it_opens_comes_home_once(
    slides: list[Path],
    out: Path,
    opening: StubOpener,
    watcher: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    jobs = [job_of(slide, out) for slide in slides]
    outcomes = _predict(jobs, replace(opening, says="not for real slides"), watcher, 2)
    told = [text for o in outcomes.values() for _, text in o.messages if "real slides" in text]
    assert len(told) == len(_processes(opening))
    assert "real slides" not in capfd.readouterr().err


@pytest.mark.parametrize(("is_single_use", "n_processes"), [(False, 1), (True, 3)])
def test_single_use_process_runs_one_job(is_single_use: bool, n_processes: int) -> None:
    workers = ProcessWorkers(ProcessIdProgram(), limit=1, is_single_use=is_single_use)
    with PoolExecutor(workers, lambda _job, _reason: 0) as executor:
        processes = list(executor.run([NamedJob(name) for name in "abc"]))
    assert len(processes) == 3
    assert len(set(processes)) == n_processes
    assert not {0, os.getpid()} & set(processes)


def test_cores_are_divided_among_workers() -> None:
    assert threads_each(1) == usable_cores()
    assert threads_each(10_000) == 1


INTERRUPTED = """
import logging, sys
from pathlib import Path
from tests.cohort.conftest import NobodyWatches
from tests.cohort.stub_model import StubOpener, job_of, stub_bundle
from triplex_deploy.system import usable_cores
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.cohort.executor import run_jobs
if __name__ == "__main__":
    traces, out, *slides = map(Path, sys.argv[1:])
    opening = StubOpener(traces, delay_s=float(30))
    choice = ExecutorChoice("local", 2, logging.WARNING)
    jobs = [job_of(slide, out) for slide in slides]
    try:
        list(run_jobs(
            jobs, stub_bundle(), lambda n: choice.make(opening, NobodyWatches(), n)
        ))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def _start(opening: StubOpener, out: Path, slides: list[Path]) -> subprocess.Popen[bytes]:
    script = opening.bundle.parent / "interrupted.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, script, opening.bundle, out, *slides],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while len(_processes(opening)) < 2 or not list(out.glob(".*.lock")):
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.05)
    return process


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("group", [False, True], ids=["parent alone", "whole terminal"])
def test_interrupt_stops_all_within_two_seconds_and_leaves_nothing(
    slides: list[Path], out: Path, opening: StubOpener, group: bool
) -> None:
    process = _start(opening, out, slides)
    begin = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - begin < 2
    assert all(_gone(pid) for pid in _processes(opening))
    assert [path for path in out.iterdir() if not path.name.startswith(".")] == []


def test_workers_of_a_killed_parent_end(slides: list[Path], out: Path, opening: StubOpener) -> None:
    process = _start(opening, out, slides)
    process.kill()
    process.wait(60)
    deadline = time.monotonic() + 60
    while not all(_gone(pid) for pid in _processes(opening)):
        assert time.monotonic() < deadline, "orphans go on"
        time.sleep(0.05)
