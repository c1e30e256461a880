"""The first run on a GPU loses no result, goes on after a cut, and says where there is no GPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_first_run
from benchmarks.gpu_first_run import NO_GPU, RESULTS, finished, run_all
from benchmarks.serving.first_run_cases import CASES, Case, Place


def unused(_: Place) -> dict[str, Any]:
    raise AssertionError("a case runs in a process of its own")


SCRIPTED = {
    "good": Case("ends well", unused, on_cpu=True, needs_gpu=False),
    "crashes": Case("ends by a signal", unused, needs_gpu=False),
    "hangs": Case("does not end", unused, limit_s=2, needs_gpu=False),
    "needs": Case("needs a GPU", unused),
}
PROGRAMS = {
    "good": "import json, sys; open(sys.argv[1], 'w').write(json.dumps({'tiles/s': 7}))",
    "crashes": "import os; print('CUDA failure 700', flush=True); os.abort()",
    "hangs": "print('building', flush=True); import time; time.sleep(60)",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, (), rehearse=False)
    made.work.mkdir()
    monkeypatch.setitem(made.__dict__, "has_gpu", False)
    monkeypatch.setattr(gpu_first_run, "CASES", SCRIPTED)

    def command(where: Place, name: str) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[name], str(where.work / f"{name}.json")]

    monkeypatch.setattr(gpu_first_run, "_command", command)
    return made


def test_every_case_leaves_a_line_and_the_rest_go_on(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all(place, ["crashes", "hangs", "needs", "good"])
    texts = (place.out / RESULTS).read_text().splitlines()
    lines = {line["case"]: line for line in map(json.loads, texts)}
    assert [lines[name]["status"] for name in ("crashes", "hangs", "needs", "good")] == [
        "failed",
        "failed",
        NO_GPU,
        "ok",
    ]
    assert lines["crashes"]["error"] == "status -6: CUDA failure 700"
    assert lines["hangs"]["error"] == "stopped after 2 s: building"
    assert lines["good"]["result"] == {"tiles/s": 7}
    assert "needs: no GPU\n" in capsys.readouterr().out


def test_run_goes_on_where_it_was_cut(place: Place) -> None:
    run_all(place, ["good", "crashes"])
    with (place.out / RESULTS).open("a") as file:
        file.write('{"case": "half a li')
    assert finished(place) == {"good"}
    again = run_all(place, ["good", "crashes"])
    assert [line["case"] for line in again] == ["crashes"], "what failed is tried again"


def test_rehearsal_does_not_stand_for_a_run(place: Place) -> None:
    run_all(Place(place.out, (), rehearse=True), ["good"])
    assert finished(place) == set()


def test_cases_are_those_of_the_page() -> None:
    assert next(iter(CASES)) == "machine"
    precisions = {name for name in CASES if name.startswith("load-")}
    assert precisions == {
        *(f"load-onnxruntime-{precision}" for precision in ("fp32", "fp16")),
        *(f"load-tensorrt-{precision}" for precision in ("fp32", "tf32", "fp16")),
    }
    assert all(case.about and case.limit_s <= 1800 for case in CASES.values())
