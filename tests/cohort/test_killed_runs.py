"""A run over several slides is killed at random moments and resumed; the results are the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest

from tests.cohort.stub_model import write_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.runtime.model import RunnableBundle

pytestmark = pytest.mark.lengthy

ROOT = Path(__file__).resolve().parents[2]

SAVE_OFTEN = """
import sys
from triplex_deploy.pipeline import feature_cache
feature_cache.EVERY_S = 0.05  # so that features are saved before these small slides are done
"""

WITH_STUB = (
    SAVE_OFTEN
    + """
from pathlib import Path
from tests.cohort.stub_model import StubOpener, job_of, stub_bundle
from triplex_deploy.cohort.executor import run_jobs
from triplex_deploy.cohort.pool import SerialExecutor
from triplex_deploy.cohort.slide_worker import SlideProgram
traces, out, *slides = map(Path, sys.argv[1:])
opening = StubOpener(traces, delay_s=0.04)
jobs = [job_of(slide, out, batch_size=1) for slide in slides]
for outcome in run_jobs(
    jobs, stub_bundle(), lambda n: SerialExecutor(SlideProgram(opening))
):
    assert outcome.metadata is not None, outcome.error
    print(outcome.status, outcome.metadata["tiles_from_cache"], flush=True)
"""
)

COMMAND_LINE = SAVE_OFTEN + "from triplex_deploy.cli import main\nmain(sys.argv[1:])\n"


def _start(script: str, arguments: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _finish(script: str, arguments: Sequence[object]) -> str:
    process = _start(script, arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def _kill_after(seconds: float, script: str, arguments: Sequence[object]) -> bool:
    """Return True if the run had not ended."""
    process = _start(script, arguments)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def _expressions(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.h5ad")):
        with h5py.File(path) as table:
            found[path.name] = table["X"][:].tobytes()
    return found


def _assert_equal_and_clean(killed: Path, undisturbed: Path, n_slides: int) -> None:
    expected = _expressions(undisturbed)
    assert len(expected) == n_slides
    assert _expressions(killed) == expected
    assert sorted(path.name for path in killed.iterdir()) == sorted(
        path.name for path in undisturbed.iterdir()
    )


def test_run_killed_three_times_ends_as_if_undisturbed(slides: list[Path], tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    slides = slides[:3]
    for number, slide in enumerate(slides):
        write_slide(slide, 100 + 7 * number, side_px=700)
    killed = tmp_path / "killed"
    moments = random.Random(5)
    for n_complete in range(3):
        process = _start(WITH_STUB, [tmp_path / "traces", killed, *slides])
        while len(list(killed.glob("*.h5ad"))) < n_complete or not list(killed.glob(".*.lock")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
    output = _finish(WITH_STUB, [tmp_path / "traces", killed, *slides])
    assert output.count("skipped") >= 2, "what was complete is not done again"
    _finish(WITH_STUB, [tmp_path / "traces", tmp_path / "undisturbed", *slides])
    _assert_equal_and_clean(killed, tmp_path / "undisturbed", len(slides))


def test_slide_that_was_cut_off_goes_on_from_its_features(
    slides: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "traces").mkdir()
    out = tmp_path / "out"
    write_slide(slides[0], 90, side_px=1200)  # 25 tiles
    arguments = [tmp_path / "traces", out, slides[0]]
    process = _start(WITH_STUB, arguments)
    while len(list(out.glob(".*/features/*/*.npz"))) < 3:
        assert process.poll() is None, "done before anything was saved"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    status, from_cache = _finish(WITH_STUB, arguments).split()
    assert status == "done"
    assert int(from_cache) >= 3
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_command_killed_ten_times_ends_as_if_undisturbed(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    """With one process and two processes in turn, which continue with each other's features."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for seed in range(4):
        synthesize_slide(folder / f"tissue {seed}.tif", 1100, 900, 0.5, seed)
    arguments = ["predict", folder, "--bundle", bundle.path, "--threads", 1, "--out"]
    begin = time.monotonic()
    _finish(COMMAND_LINE, [*arguments, tmp_path / "undisturbed"])
    took = time.monotonic() - begin
    moments = random.Random(10)
    killed = [
        _kill_after(
            took * moments.uniform(0.1, 0.8),
            COMMAND_LINE,
            [*arguments, tmp_path / "killed", "--workers", 1 + turn % 2],
        )
        for turn in range(10)
    ]
    _finish(COMMAND_LINE, [*arguments, tmp_path / "killed"])
    assert any(killed)
    _assert_equal_and_clean(tmp_path / "killed", tmp_path / "undisturbed", 4)
