"""A clock that a test moves, work that takes a given time, and made-up results."""

from collections.abc import Callable, Sequence

import pytest

from triplex_deploy.bench.result import (
    SCHEMA_VERSION,
    SINGLE_STREAM,
    Accuracy,
    BenchResult,
    CaseResult,
    Cost,
    Graph,
    Latency,
    Machine,
    RoundSpread,
    Settings,
    Subject,
)
from triplex_deploy.bench.work import CallResult, Work


class FakeClock:
    """Moves by ``advance`` and ``sleep`` alone."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class FakeWork(Work):
    """A call takes ``call_s`` and ``row_s`` for each query in it."""

    def __init__(self, clock: FakeClock, call_s: float, row_s: float = 0.0, size: int = 1) -> None:
        self.graph, self.axis, self.unit = "tile_encoder", "batch", "tiles"
        self.size = self.limit = size
        self.absent = {"write": "outputs are not kept"}
        self.metadata = {}
        self.calls: list[int] = []
        self._clock, self._call_s, self._row_s = clock, call_s, row_s

    def query(self) -> CallResult:
        return self.batch(self.size)

    def batch(self, queries: int) -> CallResult:
        self.calls.append(queries)
        took = self._call_s + queries * self._row_s
        self._clock.advance(took)
        return CallResult(queries, {"compute": took})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


SUBJECT = Subject(
    label="fp32 onnxruntime cpu",
    bundle="bundle",
    bundle_id="0123456789ab",
    precision="fp32",
    backend="onnxruntime",
    device="cpu",
    threads=2,
    transfers="none: host memory",
    cuda_graphs=False,
    graphs={"tile_encoder": Graph(sha256="ab" * 32, precision="fp32", opset=20)},
    accuracy=Accuracy(
        source="parity.json",
        passed=True,
        reference="torch 2.13 fp32",
        worst_graph="fusion_head",
        worst_relative=1e-6,
        least_cosine=0.9999,
        median_gene_pcc=1.0,
        min_gene_pcc=0.99999,
    ),
    accuracy_absent=None,
)


def make_case(
    rounds_ms: Sequence[Sequence[float]], size: int = 1, graph: str = "tile_encoder"
) -> CaseResult:
    """A case whose rounds held these latencies."""
    samples = [value for found in rounds_ms for value in found]
    middle = sorted(samples)[len(samples) // 2]
    return CaseResult(
        key=f"{SUBJECT.label} | {graph} | SingleStream | batch={size}",
        subject=SUBJECT.label,
        graph=graph,
        scenario=SINGLE_STREAM,
        axis="batch",
        size=size,
        rate_per_s=None,
        latency_ms=Latency(
            n=len(samples),
            min=min(samples),
            mean=sum(samples) / len(samples),
            p50=middle,
            p90=max(samples),
            p95=max(samples),
            p99=max(samples),
            max=max(samples),
            p99_low=middle,
            p99_high=None,
            p99_stable=False,
        ),
        throughput_per_s=1e3 * size / middle,
        unit="tiles",
        mean_batch=float(size),
        stages_ms={"compute": 0.9 * middle, "other": 0.1 * middle},
        stages_absent={"queue": "a query starts when the last has ended"},
        graphs_ms={},
        rounds=tuple(
            RoundSpread(n=len(found), min_ms=min(found), p50_ms=sorted(found)[len(found) // 2])
            for found in rounds_ms
        ),
        samples_ms=tuple(samples),
        cost=Cost(flops=10**9, traffic_bytes=10**7, flops_per_s=1e11, bytes_per_s=1e9),
        cost_absent=None,
        metadata={},
        notes=("p99 of 4 queries has no upper bound",),
    )


MakeResult = Callable[..., BenchResult]


def make_result(
    *cases: CaseResult,
    probe_ms: Sequence[float] = (1.0, 1.0, 1.0),
    other_work: Sequence[float] = (0.0, 0.0, 0.0),
) -> BenchResult:
    """A result of one subject on an imaginary machine."""
    return BenchResult(
        schema_version=SCHEMA_VERSION,
        created_at="2025-01-01T00:00:00+00:00",
        command="triplex-deploy bench bundle",
        machine=Machine(
            cpu="Imaginary 9000",
            cores=4,
            usable_cores=2,
            memory_gb=8.0,
            clock_mhz=2000.0,
            load=0.1,
            system="Linux x86_64",
            python="3.12.1",
            gpus=(),
        ),
        versions={"numpy": "2.0.0"},
        settings=Settings(seconds=1.0, rounds=3, warmup_runs=1, max_runs=100, seed=0),
        ceilings=None,
        probe_ms=tuple(probe_ms),
        other_work=tuple(other_work),
        subjects=(SUBJECT,),
        cases=cases,
    )
