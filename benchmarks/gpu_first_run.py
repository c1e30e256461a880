"""Use the first minutes on a GPU: case after case, with every result written at once.

    make gpu-first-run OUT=first-run
    python benchmarks/gpu_first_run.py --out first-run --slide a.svs --slide b.svs

Each case runs in a process of its own, because an error of CUDA can end a process. Its result is
appended to ``OUT/results.jsonl`` before the next case starts. The same command continues after a
cut: cases that are done are not repeated. No case has run on a GPU yet. ``--rehearse`` runs what a
CPU can run, at small sizes: TensorRT on the stand-in for the driver that the tests use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.serving.first_run_cases import CASES, Case, Place

RESULTS: Final = "results.jsonl"
OK: Final = "ok"
NO_GPU: Final = "no GPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--slide", type=Path, action="append", default=[], help="a real slide")
    parser.add_argument("--only", action="append", choices=list(CASES), help="run this case")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, without a GPU")
    parser.add_argument("--inside", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    slides = tuple(path.resolve() for path in arguments.slide)
    place = Place(arguments.out.resolve(), slides, arguments.rehearse)
    place.work.mkdir(parents=True, exist_ok=True)
    if arguments.inside is not None:
        result = CASES[arguments.inside].run(place)
        _answer(place, arguments.inside).write_text(json.dumps(result), encoding="utf-8")
        return
    run_all(place, arguments.only or list(CASES))


def run_all(place: Place, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run the cases that are not done yet; return the new lines of the results."""
    done = finished(place)
    lines = []
    for name in names:
        if name in done:
            print(f"{name}: done before", flush=True)
            continue
        line = _run(place, name, CASES[name])
        _append(place.out / RESULTS, line)
        print(_summary(line), flush=True)
        lines.append(line)
    return lines


def finished(place: Place) -> set[str]:
    """Return the names of the cases that a run of this kind has finished."""
    path = place.out / RESULTS
    if not path.exists():
        return set()
    found = set()
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the run was cut while it wrote
            continue
        if line["status"] == OK and line["rehearsed"] == place.rehearse:
            found.add(line["case"])
    return found


def _run(place: Place, name: str, case: Case) -> dict[str, Any]:
    line: dict[str, Any] = {"case": name, "about": case.about, "rehearsed": place.rehearse}
    line["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if not place.has_gpu and not (place.rehearse and case.on_cpu) and case.needs_gpu:
        return line | {"status": NO_GPU, "seconds": 0.0}
    answer, log = _answer(place, name), place.out / "logs" / f"{name}.log"
    answer.unlink(missing_ok=True)
    log.parent.mkdir(exist_ok=True)
    begin = time.monotonic()
    try:
        with log.open("w", encoding="utf-8") as output:
            ended = subprocess.run(
                _command(place, name),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=case.limit_s,
                check=False,
            )
        status = OK if ended.returncode == 0 and answer.exists() else "failed"
        why = f"status {ended.returncode}"
    except subprocess.TimeoutExpired:
        status, why = "failed", f"stopped after {case.limit_s} s"
    line |= {"status": status, "seconds": round(time.monotonic() - begin, 1), "log": str(log)}
    if status == OK:
        return line | {"result": json.loads(answer.read_text(encoding="utf-8"))}
    return line | {"error": f"{why}: {_last_line(log)}"}


def _command(place: Place, name: str) -> list[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(place.out)]
    for slide in place.slides:
        command += ["--slide", str(slide)]
    return [*command, "--inside", name, *(["--rehearse"] if place.rehearse else [])]


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _answer(place: Place, name: str) -> Path:
    return place.work / f"{name}.json"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")


def _summary(line: Mapping[str, Any]) -> str:
    if line["status"] == NO_GPU:
        return f"{line['case']}: {NO_GPU}"
    text = f"{line['case']}: {line['status']} after {line['seconds']} s"
    return f"{text}; {line['error']}" if "error" in line else text


if __name__ == "__main__":
    main()
