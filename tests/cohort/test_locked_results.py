"""A result that is open elsewhere, such as in a notebook, is not predicted again."""

import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.cohort.stub_model import StubOpener, job_of
from triplex_deploy.cohort.run_job import run_job
from triplex_deploy.progress import Silent

HOLD = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"


def test_a_result_that_is_open_for_writing_is_kept_and_named(
    opening: StubOpener, slides: list[Path], out: Path
) -> None:
    job, stub = job_of(slides[0], out), opening.open()
    assert run_job(job, stub, Silent()).status == "done"
    written = job.h5ad_path.stat().st_ino
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(job.h5ad_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        again = run_job(job, stub, Silent())
        holder.communicate(b"\n")
    assert again.status == "failed"
    assert "open elsewhere or cannot be locked here" in str(again.error)
    assert job.h5ad_path.stat().st_ino == written
    assert run_job(job, stub, Silent()).status == "skipped"


def test_a_complete_result_that_cannot_be_locked_is_skipped(
    opening: StubOpener, slides: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> h5py.File:
        raise OSError("Unable to synchronously open file (unable to lock file, errno = 37)")

    job, stub = job_of(slides[0], out), opening.open()
    assert run_job(job, stub, Silent()).status == "done"
    monkeypatch.setattr(h5py, "File", no_locks)
    assert run_job(job, stub, Silent()).status == "skipped"
