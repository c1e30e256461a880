"""Run a script that uses Ray in a process of its own: Ray leaves threads and sockets behind."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is absent: pip install 'triplex-deploy[cluster]'"
)


def run_ray_script(
    script: str, traces: Path, out: Path, slides: Sequence[Path], limit_s: float
) -> tuple[list[list[str]], str]:
    """Run Python code with ``traces``, ``out`` and the slides as arguments.

    Returns:
        What its last line of JSON holds, and what it wrote to stderr.
    """
    finished = subprocess.run(
        [sys.executable, "-c", script, traces, out, *slides],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1]), finished.stderr
