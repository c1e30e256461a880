"""The JSON of a benchmark; docs/benchmarks.md describes every field.

Reading is strict: an unknown field or schema version is an error, never skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from triplex_deploy.errors import ConfigError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import has_keys

SCHEMA_VERSION: Final = 1
SINGLE_STREAM: Final = "SingleStream"
OFFLINE: Final = "Offline"
SERVER: Final = "Server"
SCENARIOS: Final = (SINGLE_STREAM, OFFLINE, SERVER)
END_TO_END: Final = "end_to_end"
"""Stands where a graph's name would, for a whole slide."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Gpu(_Strict):
    """One GPU as its driver reports it; clocks in MHz."""

    name: str
    driver: str
    memory_mb: float
    sm_clock_mhz: float
    max_sm_clock_mhz: float


class Machine(_Strict):
    """Where it ran; ``usable_cores`` are those this process may run on."""

    cpu: str
    cores: int
    usable_cores: int
    memory_gb: float | None
    clock_mhz: float | None
    load: float
    system: str
    python: str
    gpus: tuple[Gpu, ...]


class Settings(_Strict):
    """How it was measured; ``seconds`` is the time given to each case, over all rounds."""

    seconds: float
    rounds: int
    warmup_runs: int
    max_runs: int
    seed: int


class Ceilings(_Strict):
    """The roof of the roofline, measured in the same process."""

    flops_per_s: float
    bytes_per_s: float
    how: str


class Accuracy(_Strict):
    """What the bundle's own parity check found against PyTorch fp32, and recorded in ``source``."""

    source: str
    passed: bool
    reference: str
    worst_graph: str
    worst_relative: float
    least_cosine: float
    median_gene_pcc: float
    min_gene_pcc: float


class Graph(_Strict):
    """One measured file."""

    sha256: str
    precision: str
    opset: int


class Subject(_Strict):
    """One bundle on one backend and device; ``label`` is unique within a result."""

    label: str
    bundle: str
    bundle_id: str
    precision: str
    backend: str
    device: str
    threads: int | None
    transfers: str
    cuda_graphs: bool
    graphs: dict[str, Graph]
    accuracy: Accuracy | None
    accuracy_absent: str | None


class Latency(_Strict):
    """Milliseconds per query over ``n`` queries.

    ``p99_low`` to ``p99_high`` holds the true p99 in 95 of 100 repetitions, by order statistics;
    None: too few queries to bound it above. ``p99_stable``: bounded, and within 10 %.
    """

    n: int
    min: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    p99_low: float
    p99_high: float | None
    p99_stable: bool


class RoundSpread(_Strict):
    """One of the rounds of a case, which are spread over the whole benchmark."""

    n: int
    min_ms: float
    p50_ms: float


class Cost(_Strict):
    """Work of one run, counted from the file, and what the median run makes of it."""

    flops: int
    traffic_bytes: int
    flops_per_s: float
    bytes_per_s: float


class CaseResult(_Strict):
    """One subject, graph (or slide), scenario and size; ``key`` names it across results."""

    key: str
    subject: str
    graph: str
    scenario: str
    axis: str
    size: int
    rate_per_s: float | None
    latency_ms: Latency
    throughput_per_s: float
    unit: str
    mean_batch: float
    stages_ms: dict[str, float]
    stages_absent: dict[str, str]
    graphs_ms: dict[str, float]
    rounds: tuple[RoundSpread, ...]
    samples_ms: tuple[float, ...]
    cost: Cost | None
    cost_absent: str | None
    metadata: dict[str, float | int | str] = Field(
        validation_alias=AliasChoices("metadata", "facts")  # "facts" in files of version 0.1
    )
    notes: tuple[str, ...]


class BenchResult(_Strict):
    """Everything one ``triplex-deploy bench`` found."""

    schema_version: int
    created_at: str
    command: str
    machine: Machine
    versions: dict[str, str]
    settings: Settings
    ceilings: Ceilings | None
    probe_ms: tuple[float, ...]
    other_work: tuple[float, ...]
    subjects: tuple[Subject, ...]
    cases: tuple[CaseResult, ...]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


is_result: Final = has_keys("schema_version", "machine", "probe_ms")
"""Returns True for the first bytes of the JSON of a result."""


def write_result(result: BenchResult, path: Path) -> None:
    """Write the JSON, atomically; raises ``OutputError``."""
    with atomic_path(path) as temporary:
        temporary.write_text(result.to_json(), encoding="utf-8")


def read_result(path: Path) -> BenchResult:
    """Read what ``write_result`` wrote; raises ``ConfigError`` naming the field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a result of bench") from error
    _check_version(path, text)
    try:
        return BenchResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {where}: {first['msg']}; the file was altered, run bench again"
        ) from error


def _check_version(path: Path, text: str) -> None:
    try:
        version = json.loads(text).get("schema_version")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a JSON object; give a result of bench --json") from error
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema version {version!r}, this release reads {SCHEMA_VERSION}; "
            "run bench again with this release"
        )
