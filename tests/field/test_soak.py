"""Many slides in one process leave nothing behind: the short form of ``make soak``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_twenty_slides_with_faults_leave_nothing(tmp_path: Path) -> None:
    """In a process of its own, as its memory is measured: a test run has gigabytes of others."""
    path = tmp_path / "soak.json"
    command = [sys.executable, "-m", "tests.field.soak", "--slides", "20", "--json", str(path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["done"], found["failed"]) == (16, 4)
