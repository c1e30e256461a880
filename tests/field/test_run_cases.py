"""An interrupted run of the cases leaves nothing behind that goes on working."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.field.child import INTERRUPTED
from tests.field.run_cases import ROOT

pytestmark = pytest.mark.lengthy
RECIPE = """
sleep 600 &
echo $! > {mark}.part && mv {mark}.part {mark}
wait
"""
MAX_WAIT_S = 120.0


def is_running(pid: int) -> bool:
    """Return True for a process that has not ended; one that nobody has waited for has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until_there(path: Path) -> None:
    end = time.monotonic() + MAX_WAIT_S
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_commands_of_all_cases(number: int, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    marks = [tmp_path / name for name in ("first", "second")]
    for mark in marks:
        (recipes / f"{mark.name}.sh").write_text(RECIPE.format(mark=mark))
    command = [sys.executable, "-m", "tests.field.run_cases", str(recipes), "--demo", str(tmp_path)]
    only = ["--only", "first", "second", "--jobs", "2"]
    process = subprocess.Popen(
        [*command, *only], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        for mark in marks:
            until_there(mark)
        started = [int(mark.read_text()) for mark in marks]
        assert all(map(is_running, started))
        process.send_signal(number)
        process.communicate(timeout=MAX_WAIT_S)
    finally:
        process.kill()
        process.wait()
    left = [pid for pid in started if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    assert process.returncode == INTERRUPTED
