"""Test a short benchmark of a real bundle."""

from pathlib import Path

import pytest

from triplex_deploy.bench.accuracy import HERE
from triplex_deploy.bench.options import BenchOptions
from triplex_deploy.bench.result import OFFLINE, SERVER, SINGLE_STREAM, BenchResult
from triplex_deploy.bench.run import run_bench
from triplex_deploy.bench.work import made_up_inputs
from triplex_deploy.contract import graph_specs
from triplex_deploy.contract.his_to_gene import HisToGeneConfig
from triplex_deploy.errors import BackendError, ConfigError, ContractError
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.runtime.product import PRODUCT_TYPES


@pytest.fixture(scope="module")
def result(bundle: RunnableBundle) -> BenchResult:
    return run_bench(
        BenchOptions(
            bundles=(bundle.path, bundle.path),
            device="cpu",
            threads=1,
            scenarios=(SINGLE_STREAM, OFFLINE, SERVER),
            rate_per_s=200.0,
            only_graphs=("fusion_head", "global_encoder"),
            batch_sizes=(1, 3),
            token_counts=(5, 9),
            seconds=0.01,
            rounds=2,
            warmup_runs=1,
            count_cost=lambda path, sizes: (path.stat().st_size, 10 * sum(sizes.values())),
        )
    )


def test_every_graph_size_scenario_and_subject_is_a_case(result: BenchResult) -> None:
    assert len(result.cases) == 2 * 2 * 3 * 2
    assert len({case.key for case in result.cases}) == len(result.cases)
    sizes = {(case.graph, case.axis, case.size) for case in result.cases}
    assert sizes == {
        ("fusion_head", "batch", 1),
        ("fusion_head", "batch", 3),
        ("global_encoder", "spots", 5),
        ("global_encoder", "spots", 9),
    }
    for case in result.cases:
        assert case.latency_ms.n >= 2
        assert len(case.rounds) == 2
        assert case.stages_ms["compute"] > 0


def test_subjects_are_told_apart_and_carry_bundle_graphs_and_accuracy(
    result: BenchResult, bundle: RunnableBundle
) -> None:
    labels = [subject.label for subject in result.subjects]
    assert labels == ["fp32 onnxruntime cpu", "fp32 onnxruntime cpu #2"]
    subject = result.subjects[0]
    assert (subject.bundle_id, subject.threads) == (bundle.id, 1)
    entry = bundle.entry("fusion_head", "onnxruntime")
    assert subject.graphs["fusion_head"].sha256 == entry.sha256
    assert subject.accuracy is not None
    assert subject.accuracy.passed
    assert subject.accuracy.min_gene_pcc > 0.999
    assert subject.accuracy.source == HERE


def test_cpu_time_and_peaks_of_the_products_are_recorded(result: BenchResult) -> None:
    assert all(case.cpu_ms is not None and case.cpu_ms > 0 for case in result.cases)
    assert result.ceilings is not None
    assert {*result.ceilings.peaks, *result.ceilings.peaks_absent} == set(PRODUCT_TYPES)
    assert all(peak.flops_per_s > 0 for peak in result.ceilings.peaks.values())


def test_what_a_bundle_does_not_have_is_listed_beside_what_it_has(bundle: RunnableBundle) -> None:
    options = BenchOptions(
        bundles=(bundle.path,),
        backends=("onnxruntime",),
        precisions=("fp32", "int8"),
        device="cpu",
        only_graphs=("fusion_head",),
        batch_sizes=(1,),
        seconds=0.001,
        rounds=2,
    )
    result = run_bench(options)
    assert [subject.label for subject in result.subjects] == ["fp32 onnxruntime cpu"]
    ((name, reason),) = result.subjects_absent.items()
    assert name == f"int8 onnxruntime {bundle.path}"
    assert "export" in reason


def test_a_benchmark_that_can_open_nothing_is_refused(bundle: RunnableBundle) -> None:
    options = BenchOptions(bundles=(bundle.path,), precisions=("int8",), device="cpu")
    with pytest.raises(BackendError, match="int8"):
        run_bench(options)


def test_slide_wide_graph_is_never_batched(result: BenchResult) -> None:
    for case in result.cases:
        if case.graph == "global_encoder":
            assert case.mean_batch == case.size


def test_stages_that_cannot_be_told_apart_say_why(result: BenchResult) -> None:
    for case in result.cases:
        assert case.stages_absent["host_to_device"] == "the CPU computes where the arrays are"
        assert case.stages_absent["decode"] == "no slide is read: inputs are made up"
        assert ("queue" in case.stages_ms) == (case.scenario == SERVER)
        assert not set(case.stages_ms) & set(case.stages_absent)


def test_cost_is_of_the_file_at_its_size_and_absent_for_a_server(
    result: BenchResult, bundle: RunnableBundle
) -> None:
    for case in result.cases:
        if case.scenario == SERVER:
            assert case.cost is None
            assert case.cost_absent == "calls of a server differ in size"
            continue
        path = bundle.path / bundle.entry(case.graph, "onnxruntime").file
        assert case.cost is not None
        assert case.cost.flops == path.stat().st_size
        assert case.cost.traffic_bytes == 10 * case.size


def test_graph_that_cannot_be_counted_is_measured_all_the_same(bundle: RunnableBundle) -> None:
    def refuse(path: Path, sizes: object) -> tuple[int, int]:
        raise ContractError(f"{path.name}: shape unknown; export it again")

    options = BenchOptions(
        bundles=(bundle.path,),
        device="cpu",
        only_graphs=("fusion_head",),
        batch_sizes=(1,),
        seconds=0.001,
        rounds=2,
        count_cost=refuse,
    )
    (case,) = run_bench(options).cases
    assert (case.cost, case.cost_absent) == (
        None,
        "fusion_head.onnx: shape unknown; export it again",
    )


def test_unknown_graph_is_refused_with_those_there_are(bundle: RunnableBundle) -> None:
    options = BenchOptions(bundles=(bundle.path,), device="cpu", only_graphs=("decoder",))
    with pytest.raises(ConfigError, match="decoder: no bundle has them; they have tile_encoder"):
        run_bench(options)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scenarios": ("Batch",)}, "Batch"),
        ({"scenarios": (SERVER,)}, "rate_per_s"),
        ({"rate_per_s": 5.0}, "rate_per_s"),
        ({"scenarios": (SERVER,), "rate_per_s": 0.0}, "rate_per_s=0"),
        ({"batch_sizes": (1, 1)}, "batch_sizes"),
        ({"token_counts": (0,)}, "token_counts"),
        ({"rounds": 1}, "rounds=1"),
        ({"seconds": 0.0}, "seconds=0"),
        ({"graphs": False}, "nothing is left to measure"),
        ({"bundles": ()}, "bundles: none"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        BenchOptions(**({"bundles": (Path("bundle"),)} | changes))


def test_made_up_positions_lie_on_the_array_that_the_model_knows() -> None:
    config = HisToGeneConfig(n_genes=3, n_positions=4)
    spec = next(spec for spec in graph_specs(config).values() if "grid_xy" in str(spec.inputs))
    made = made_up_inputs(spec, 50, seed=1, n_positions=config.n_positions)
    assert made["grid_xy"].min() == 0
    assert made["grid_xy"].max() == config.n_positions - 1
