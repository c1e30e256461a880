"""Measure what many slides cost beside their prediction: planning, locks, resuming, index, summary.

    python benchmarks/bench_cohort.py [--slides 10000] [--predicted 200] [--json FILE]

The model is a stand-in and the slides have four spots, so that nothing but this work is left.
One slide is predicted, and its files are linked to the names of the others. The work is measured
for a tenth of the slides and for all of them: time and memory of each further slide follow. Then
``--predicted`` slides are predicted by one process, by four, and on two Ray nodes of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cohort.finished import complete, plan, predict, slide_list
from tests.cohort.stub_model import stub_bundle
from triplex_deploy.bench.machine import forget_peak_memory
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.result import BenchResult
from triplex_deploy.bench.script import (
    PEAK_MEMORY,
    add_round,
    report,
    script_case,
    script_result,
    time_call,
)
from triplex_deploy.cli.slides_summary import print_slides
from triplex_deploy.cohort.executor import run_jobs, write_index
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.outputs.cohort import folder_cards, write_index_pages
from triplex_deploy.system import peak_memory_mb, return_freed_memory

ROOT: Final = Path(__file__).resolve().parents[1]
MAX_MS: Final = 3.0
"""Aim for each step, in milliseconds a slide."""
STEPS: Final = {
    "plan": "read the slide list and plan the slides",
    "locks": "take and free the lock of each slide",
    "scan": "find out that each slide is complete (--resume)",
    "index": "write the pages of the index",
    "summary": "print the summary, a line for each slide",
    "json": "print the summary as JSON, with all metadata (--json)",
    "report": "write the index again from the folder (report FOLDER)",
}
RAY_TIMEOUT_S: Final = 900
ADDED: Final = "added_memory_mb"
"""Key of the metadata with what a step adds to the memory of the process."""

Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=10_000, help="slides of the output folder")
    parser.add_argument("--predicted", type=int, default=200, help="slides that are predicted")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options.slides, options.predicted)
    report(result, options.json)


def run(folder: Path, n_slides: int, n_predicted: int) -> BenchResult:
    """Measure all cases."""
    ratios: dict[str, float] = {}
    absent: dict[str, str] = {}
    few = steps(folder / "few", max(2, n_slides // 10))
    many = steps(folder / "many", n_slides)
    for name, case in many.items():
        ratios[f"{name}_ms_per_slide"] = 1e3 * _seconds(case) / n_slides
        ratios[f"{name}_cpu_ms_per_slide"] = 1e3 * case.rounds[0].cpu_s / n_slides
        grown = case.work.metadata[ADDED] - few[name].work.metadata[ADDED]
        ratios[f"{name}_memory_kb_per_slide"] = 1e3 * grown / (n_slides - few[name].work.size)
    found = [*few.values(), *many.values()]
    if n_predicted:
        found += predictions(folder, n_predicted, ratios, absent)
    limits = {
        "max_ms_per_slide": MAX_MS,
        "slides": n_slides,
        "predicted": n_predicted,
        "load": list(os.getloadavg()),
    }
    return script_result(found, ratios, limits, absent)


def steps(folder: Path, n_slides: int) -> dict[str, Case]:
    """Return a case for each step over ``n_slides`` complete slides."""
    folder.mkdir()
    out, listed = folder / "out", slide_list(folder, n_slides)
    out.mkdir()
    cases = {
        name: script_case(f"{name}: {n_slides} slides", why, n_slides, "slides")
        for name, why in STEPS.items()
    }
    complete(plan(listed, out), folder / "traces")
    jobs = _timed(cases["plan"], lambda: plan(listed, out))
    _timed(cases["locks"], lambda: lock_all(jobs))
    outcomes = _timed(cases["scan"], lambda: scan(jobs))
    if {outcome.status for outcome in outcomes} != {"skipped"}:
        raise RuntimeError("the copied results are not complete")
    index = _timed(cases["index"], lambda: write_index(outcomes, out))
    with contextlib.redirect_stdout(io.StringIO()):
        _timed(cases["summary"], lambda: print_slides(outcomes, False, out, index))
        _timed(cases["json"], lambda: print_slides(outcomes, True, out, index))
    _timed(cases["report"], lambda: write_index_pages(out, folder_cards(out)))
    return cases


def lock_all(jobs: list[Job]) -> None:
    """Take and free the lock of each slide."""
    for job in jobs:
        with exclusive_lock(job.lock_path):
            pass


def scan(jobs: list[Job]) -> list[Outcome]:
    """Return the outcomes of complete slides; no worker is started."""

    def no_executor(n_left: int) -> Any:
        raise RuntimeError(f"{n_left} slides are not complete")

    return list(run_jobs(jobs, stub_bundle(), no_executor))


def predictions(
    folder: Path, n_slides: int, ratios: dict[str, float], absent: dict[str, str]
) -> list[Case]:
    """Predict ``n_slides`` by one process, by four, and on two Ray nodes."""
    listed, traces = slide_list(folder, n_slides), folder / "traces"
    cases = []
    for name, workers in (("one process", 1), ("four processes", 4)):
        case = script_case(f"predict: {name}", "slides of four spots", n_slides, "slides")
        jobs = plan(listed, folder / name)
        outcomes = _timed(case, partial(predict, jobs, traces, workers=workers))
        _require_done(sum(outcome.status == "done" for outcome in outcomes), n_slides)
        cases.append(case)
    ratio = "predict_two_ray_nodes_ms_per_slide"
    if find_spec("ray") is None:
        absent[ratio] = "Ray is not installed"
    else:
        cases.append(on_ray(listed, folder, n_slides))
    for case in cases:
        name = case.work.graph.removeprefix("predict: ").replace(" ", "_")
        ratios[f"predict_{name}_ms_per_slide"] = 1e3 * _seconds(case) / n_slides
    return cases


def on_ray(listed: Path, folder: Path, n_slides: int) -> Case:
    """Return the case of two Ray nodes on this machine; joining and opening count."""
    case = script_case("predict: two ray nodes", "slides of four spots", n_slides, "slides")
    command = [sys.executable, "-m", "benchmarks.cohort.ray_nodes", listed, folder / "ray"]
    finished = subprocess.run(
        [str(part) for part in (*command, folder / "traces")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RAY_TIMEOUT_S,
        check=True,
    )
    found = json.loads(finished.stdout.splitlines()[-1])
    _require_done(found["done"], n_slides)
    add_round(case, found["seconds"], found["seconds"], found["memory_mb"])
    case.work.metadata["cpu"] = "of the other processes is not counted"
    return case


def _require_done(n_done: int, n_slides: int) -> None:
    if n_done != n_slides:
        raise RuntimeError(f"{n_slides - n_done} of {n_slides} slides failed")


def _timed(case: Case, call: Callable[[], Result]) -> Result:
    """Time a call; its memory is what it adds to that of the process before."""
    return_freed_memory()
    forget_peak_memory()
    before = peak_memory_mb()
    found = time_call(case, call)
    case.work.metadata[ADDED] = case.work.metadata[PEAK_MEMORY] - before
    return found


def _seconds(case: Case) -> float:
    return sum(case.rounds[0].latencies_s)


if __name__ == "__main__":
    main()
