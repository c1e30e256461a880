"""Read the JSON of a benchmark, older forms included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from triplex_deploy.bench.result import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    SINGLE_STREAM,
    BenchResult,
)
from triplex_deploy.errors import ConfigError

_OWN_FIELDS: Final = ("name", "wall_s", "cpu_s", "peak_mb")
"""Fields of an older case that have a place of their own; all others become metadata."""


def read_result(path: Path) -> BenchResult:
    """Read a result of ``bench`` or of a script of ``benchmarks/``, older versions included.

    Raises:
        ConfigError: If the file is no result; the message names the wrong field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a result of bench") from error
    try:
        return BenchResult.model_validate_json(_current_form(path, text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {where}: {first['msg']}; the file was altered, run bench again"
        ) from error


def _current_form(path: Path, text: str) -> str:
    """Return the JSON in a form of ``READABLE_VERSIONS``."""
    try:
        content = json.loads(text)
        version = content.get("schema_version")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a JSON object; give a result of bench --json") from error
    if _is_older_script(content):
        return json.dumps(_upgraded(content))
    if version not in READABLE_VERSIONS:
        raise ConfigError(
            f"{path}: schema version {version!r}, this release reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; run bench again with this release"
        )
    return text


def _is_older_script(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is the timings of a script before version 2."""
    cases = content.get("cases")
    return content.get("schema") == 1 and isinstance(cases, list) and bool(cases)


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ``BenchResult`` with the same figures.

    The older form kept the median, the least and the largest wall seconds of a case, not each of
    them. So a case has one round, and two such results never prove that a case became slower.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": "unknown",
        "command": content.get("command", "unknown"),
        "machine": _machine(content.get("machine", {})),
        "versions": content.get("versions", {}),
        "settings": None,
        "ceilings": None,
        "probe_ms": [],
        "other_work": [],
        "subjects": [],
        "cases": [_case(case) for case in content["cases"]],
        "ratios": content.get("ratios", {}),
        "limits": content.get("limits", {}),
    }


def _machine(machine: Mapping[str, Any]) -> dict[str, Any]:
    cores = machine.get("cores", 0)
    load = machine.get("load", (machine.get("load_before") or [0.0])[0])
    return {
        "cpu": machine.get("cpu", "unknown"),
        "cores": cores,
        "usable_cores": machine.get("usable_cores", cores),
        "memory_gb": machine.get("memory_gb"),
        "clock_mhz": machine.get("clock_mhz"),
        "load": load,
        "system": machine.get("system", "unknown"),
        "python": machine.get("python", "unknown"),
        "gpus": machine.get("gpus", []),
    }


def _case(case: Mapping[str, Any]) -> dict[str, Any]:
    wall_ms = {name: 1e3 * case["wall_s"][name] for name in ("p50", "min", "max")}
    n = case["wall_s"]["n"]
    middle = wall_ms["p50"]
    metadata = {name: value for name, value in case.items() if name not in _OWN_FIELDS}
    return {
        "key": case["name"],
        "subject": "",
        "graph": case["name"],
        "scenario": SINGLE_STREAM,
        "axis": "calls",
        "size": 1,
        "rate_per_s": None,
        "latency_ms": {
            "n": n,
            "min": wall_ms["min"],
            "mean": middle,
            **dict.fromkeys(("p50", "p90", "p95", "p99"), middle),
            "max": wall_ms["max"],
            "p99_low": wall_ms["min"],
            "p99_high": None,
            "p99_stable": False,
        },
        "throughput_per_s": 1e3 / middle,
        "unit": "calls",
        "mean_batch": 1.0,
        "stages_ms": {},
        "stages_absent": {},
        "graphs_ms": {},
        "rounds": [{"n": n, "min_ms": wall_ms["min"], "p50_ms": middle}],
        "samples_ms": [middle],
        "cost": None,
        "cost_absent": "not counted",
        "cpu_ms": 1e3 * case["cpu_s"],
        "metadata": {**metadata, "peak_memory_mb": case["peak_mb"]},
        "notes": ["mean, p90, p95 and p99 stand for the median: the file has no others"],
    }
