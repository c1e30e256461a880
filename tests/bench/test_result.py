"""Test the JSON of a result: it comes back as it was written, or is refused by name."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.bench.conftest import make_case, make_result
from triplex_deploy.bench import result as schema
from triplex_deploy.bench.compare import compare_results
from triplex_deploy.bench.read_result import read_result
from triplex_deploy.bench.result import write_result
from triplex_deploy.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"
TIMINGS = ("predict.json", "predict_paper.json", "tiles.json")
"""Committed results of scripts, some of them in the form before version 2."""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    write_result(make_result(make_case([[1.0, 2.0], [1.5, 2.5]])), path)
    return path


def test_result_comes_back_as_it_was_written(written: Path) -> None:
    assert read_result(written) == make_result(make_case([[1.0, 2.0], [1.5, 2.5]]))


def test_result_of_version_1_lacks_what_version_2_added(written: Path) -> None:
    content = json.loads(written.read_text()) | {"schema_version": 1}
    for name in ("subjects_absent", "ratios", "ratios_absent", "limits"):
        del content[name]
    del content["machine"]["instructions"], content["cases"][0]["cpu_ms"]
    written.write_text(json.dumps(content))
    found = read_result(written)
    assert (found.ratios, found.machine.instructions, found.cases[0].cpu_ms) == ({}, (), None)


@pytest.mark.parametrize("name", TIMINGS)
def test_committed_results_are_read_and_compare_with_themselves(name: str) -> None:
    path = ROOT / "benchmarks/results" / name
    found = read_result(path)
    assert len(found.cases) == len(json.loads(path.read_text())["cases"])
    assert found.ratios
    comparison = compare_results(found, found)
    assert len(comparison.cases) == len(found.cases)
    assert comparison.slower == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.name
)
def test_committed_results_name_no_folder_of_a_machine(path: Path) -> None:
    words = str(json.loads(path.read_text()).get("command", "")).split()
    assert [word for word in words if word.startswith("/")] == []


def test_older_timings_of_a_script_keep_their_figures(tmp_path: Path) -> None:
    case = {
        "name": "grid, ours fp32",
        "reason": "the common case",
        "wall_s": {"p50": 2.0, "min": 1.5, "max": 4.0, "n": 3},
        "cpu_s": 2.5,
        "peak_mb": 300.0,
        "stages_s": {"plan": 0.5},
    }
    machine = {"cpu": "Imaginary 9000", "cores": 2, "system": "Linux", "load_before": [0.5, 1, 2]}
    content = {
        "schema": 1,
        "machine": machine,
        "versions": {"numpy": "2.0.0"},
        "command": "python benchmarks/bench_predict.py",
        "cases": [case],
        "ratios": {"grid_fp32_over_reference": 14.5},
        "limits": {"kills": 10},
    }
    path = tmp_path / "older.json"
    path.write_text(json.dumps(content))
    result = read_result(path)
    (found,) = result.cases
    assert found.key == "grid, ours fp32"
    latency = found.latency_ms
    assert (latency.n, latency.min, latency.p50, latency.max) == (3, 1500.0, 2000.0, 4000.0)
    assert found.cpu_ms == 2500.0
    assert found.metadata == {
        "reason": "the common case",
        "stages_s": {"plan": 0.5},
        "peak_memory_mb": 300.0,
    }
    assert (result.ratios, result.limits) == ({"grid_fp32_over_reference": 14.5}, {"kills": 10})
    assert (result.machine.cpu, result.machine.load) == ("Imaginary 9000", 0.5)
    assert "speed of the machine was not measured" in compare_results(result, result).warnings[0]


def test_unknown_schema_version_is_refused(written: Path) -> None:
    content = json.loads(written.read_text())
    written.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ConfigError, match="schema version 99, this release reads 1 and 2"):
        read_result(written)


def test_unknown_and_missing_fields_are_named(written: Path) -> None:
    content = json.loads(written.read_text())
    content["cases"][0]["color"] = "red"
    written.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"cases\.0\.color"):
        read_result(written)
    del content["cases"][0]["color"], content["machine"]["cpu"]
    written.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"machine\.cpu"):
        read_result(written)


def test_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_result(tmp_path / "absent.json")
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="not a JSON object"):
        read_result(path)


def test_every_field_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    models = [
        model
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
    ]
    assert len(models) > 8
    missing = [
        f"{model.__name__}.{name}"
        for model in models
        for name in model.model_fields
        if f"`{name}`" not in page
    ]
    assert missing == []
