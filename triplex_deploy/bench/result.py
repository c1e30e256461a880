"""Define the JSON of a benchmark; docs/benchmarks.md describes every field.

``bench`` and the scripts in ``benchmarks/`` write the same record. Reading is strict: an unknown
field or schema version is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import has_keys

SCHEMA_VERSION: Final = 2
READABLE_VERSIONS: Final = (1, SCHEMA_VERSION)
"""Versions that can be read; version 2 only added fields."""
SINGLE_STREAM: Final = "SingleStream"
OFFLINE: Final = "Offline"
SERVER: Final = "Server"
SCENARIOS: Final = (SINGLE_STREAM, OFFLINE, SERVER)
END_TO_END: Final = "end_to_end"
"""Name of the "graph" of a case that predicts a whole slide."""


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
    """The machine that ran the benchmark."""

    cpu: str
    cores: int
    usable_cores: int
    """Cores that the process may run on."""
    memory_gb: float | None
    clock_mhz: float | None
    load: float
    system: str
    python: str
    gpus: tuple[Gpu, ...]
    instructions: tuple[str, ...] = ()
    """Instruction sets for matrix products that the processor has, such as ``avx2``."""


class Settings(_Strict):
    """How the cases were measured."""

    seconds: float
    """Time of each case over all rounds."""
    rounds: int
    warmup_runs: int
    max_runs: int
    seed: int


class Peak(_Strict):
    """The rate of a matrix product in one precision, measured on the machine."""

    flops_per_s: float
    """Operations per second; a multiplication and its addition are two."""
    instructions: str
    """Instruction set that the runtime can use for it, such as ``amx_bf16``."""
    how: str
    """What was multiplied, and by which runtime."""


class Ceilings(_Strict):
    """The roof of the roofline, measured in the same process."""

    flops_per_s: float
    """Of NumPy's matrix product in fp32."""
    bytes_per_s: float
    how: str
    peaks: dict[str, Peak] = Field(default_factory=dict)
    """The best matrix product of each precision."""
    peaks_absent: dict[str, str] = Field(default_factory=dict)
    """Why a precision has no peak."""

    def roof(self, precision: str) -> float:
        """Return the operations per second that a precision can reach at most."""
        found = self.peaks.get(precision)
        return self.flops_per_s if found is None else found.flops_per_s


class Accuracy(_Strict):
    """The difference from PyTorch in fp32."""

    source: str
    """The file of the bundle that has the comparison of the export, or the inputs that were run
    again on this machine."""
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
    """One bundle in one backend, precision and device."""

    label: str
    """Unique within a result."""
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

    ``p99_low`` to ``p99_high`` contains the true p99 in 95 of 100 repetitions, by order statistics.
    ``p99_high`` is None if there are too few queries for an upper bound. ``p99_stable`` is true if
    there is a bound and the interval is no wider than 10 %.
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
    """One round of a case; the rounds are spread over the whole benchmark."""

    n: int
    min_ms: float
    p50_ms: float


class Cost(_Strict):
    """Operations and traffic of one run, counted from the file, and the rates of the median run."""

    flops: int
    traffic_bytes: int
    flops_per_s: float
    bytes_per_s: float


class CaseResult(_Strict):
    """One subject, graph (or slide), scenario and size."""

    key: str
    """Name of the case, by which two results are compared."""
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
    cpu_ms: float | None = None
    """CPU milliseconds per query of all threads together, least of the rounds."""
    metadata: dict[str, JsonValue] = Field(
        validation_alias=AliasChoices("metadata", "facts")  # "facts" in files of version 0.1
    )
    notes: tuple[str, ...]


class BenchResult(_Strict):
    """All that one ``triplex-deploy bench``, or one script of ``benchmarks/``, measured."""

    schema_version: int
    created_at: str
    command: str
    machine: Machine
    versions: dict[str, str]
    settings: Settings | None
    """None for a script, which decides about the repeats of each case."""
    ceilings: Ceilings | None
    probe_ms: tuple[float, ...]
    other_work: tuple[float, ...]
    subjects: tuple[Subject, ...]
    cases: tuple[CaseResult, ...]
    subjects_absent: dict[str, str] = Field(default_factory=dict)
    """Why a bundle was not measured in a backend and precision."""
    ratios: dict[str, float] = Field(default_factory=dict)
    """Ratios and other figures that a script computes from its cases."""
    ratios_absent: dict[str, str] = Field(default_factory=dict)
    """Why a ratio is missing."""
    limits: dict[str, JsonValue] = Field(default_factory=dict)
    """Aims of a script, and other facts that are not ratios."""

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


is_result: Final = has_keys("schema_version", "machine", "probe_ms")
"""Return whether bytes are the first bytes of the JSON of a result."""


def write_result(result: BenchResult, path: Path) -> None:
    """Write the JSON of a result; readers never see a part of it.

    Raises:
        OutputError: If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(result.to_json(), encoding="utf-8")
