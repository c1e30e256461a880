"""``bench`` and ``bench compare`` as typed."""

import json
import sys
from pathlib import Path

import pytest

from tests.bench.conftest import make_case, make_result
from triplex_deploy.bench.read_result import read_result
from triplex_deploy.bench.result import (
    END_TO_END,
    BenchResult,
    Ceilings,
    Peak,
    write_result,
)
from triplex_deploy.cli.bench_table import print_result
from triplex_deploy.cli.main import run
from triplex_deploy.install import install_command
from triplex_deploy.slides import open_slide

QUICK = ("--device", "cpu", "--threads", 1, "--seconds", 0.01, "--rounds", 2, "--warmup", 0)
ONE_GRAPH = ("--graph", "fusion_head", "--batch-sizes", "1,2")
ROUNDS = [[10.0, 10.1, 10.3], [10.05, 10.2, 10.2], [10.02, 10.1, 10.4]]


def result_of(factor: float) -> BenchResult:
    return make_result(make_case([[factor * value for value in found] for found in ROUNDS]))


@pytest.fixture
def before(tmp_path: Path) -> Path:
    path = tmp_path / "before.json"
    write_result(result_of(1.0), path)
    return path


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    path = tmp_path / "slower run.json"
    write_result(result_of(1.2), path)
    return path


def test_bundles_side_by_side_give_table_json_and_plot(invoke, bundle, tmp_path: Path) -> None:
    out, plot = tmp_path / "today.json", tmp_path / "today.png"
    bundles = (bundle.path, bundle.path)
    finished = invoke("bench", *bundles, *ONE_GRAPH, *QUICK, "--json", out, "--plot", plot)
    assert finished.status == 0, finished.err
    result = read_result(out)
    assert [case.size for case in result.cases] == [1, 1, 2, 2]
    assert all(case.cost is not None for case in result.cases)
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    named = ("fp32 onnxruntime cpu #2", "gene PCC median", bundle.id, "p99 is not stable")
    for text in ("fusion_head", "batch 2", *named):
        assert text in finished.out


def test_json_without_a_file_goes_to_stdout_alone(invoke, bundle) -> None:
    finished = invoke("bench", bundle.path, *ONE_GRAPH, *QUICK, "--json")
    assert finished.status == 0, finished.err
    assert json.loads(finished.out)["schema_version"] == 2


def test_slide_is_measured_end_to_end(invoke, bundle, slide_path, tmp_path: Path) -> None:
    out = tmp_path / "slide.json"
    finished = invoke(
        "bench", bundle.path, "--slide", slide_path, "--end-to-end", *QUICK, "--json", out
    )
    assert finished.status == 0, finished.err
    (case,) = read_result(out).cases
    assert (case.graph, case.axis, case.unit) == (END_TO_END, "slides", "spots")
    assert case.metadata["slide"] == slide_path.name
    assert set(case.graphs_ms) == set(bundle.specs)
    assert {"compute", "prepare", "write"} <= set(case.stages_ms)


def test_without_a_slide_one_is_made_up(invoke, bundle, monkeypatch) -> None:
    slides = []

    def look_at_slide(options, progress) -> BenchResult:
        with open_slide(options.slide) as slide:
            slides.append((options.slide, slide.level_sizes[0], slide.mpp))
        return result_of(1.0)

    monkeypatch.setattr("triplex_deploy.cli.bench.SYNTHETIC_PX", (700, 600))
    monkeypatch.setattr("triplex_deploy.bench.run.run_bench", look_at_slide)
    assert invoke("bench", bundle.path).status == 0
    ((path, size_wh, mpp),) = slides
    assert size_wh == (700, 600)
    assert mpp == pytest.approx(0.5)
    assert not path.exists()


def test_absent_onnx_leaves_the_roofline_out_visibly(invoke, bundle, monkeypatch, tmp_path) -> None:
    monkeypatch.delitem(sys.modules, "triplex_deploy.exporters.cost", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = tmp_path / "result.json"
    finished = invoke("bench", bundle.path, *ONE_GRAPH, *QUICK, "--json", out)
    assert finished.status == 0, finished.err
    assert "operations are not counted: onnx is not installed" in finished.err
    assert "onnx is not installed" in str(read_result(out).cases[0].cost_absent)


def test_absent_matplotlib_is_said_before_measuring(invoke, bundle, monkeypatch, tmp_path) -> None:
    monkeypatch.delitem(sys.modules, "triplex_deploy.bench.plots", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("triplex_deploy.cli.bench._measure", lambda options: pytest.fail("ran"))
    finished = invoke("bench", bundle.path, "--plot", tmp_path / "plot.png")
    assert finished.status == 1
    assert install_command("plots") in finished.err


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["--batch-sizes", "1,x"], 2, "'x' is not a valid integer"),
        (["--batch-sizes", "0"], 2, "0 is not in the range"),
        (["--scenario", "Burst"], 2, "Burst"),
        (
            ["--scenario", "server"],
            1,
            "--rate: give it for the Server scenario, and for no other",
        ),
        (["--rate", "3"], 1, "--rate: give it for the Server scenario, and for no other"),
        (["--graphs", "--slide", "x.tif"], 2, "--slide is for end to end"),
        (["--mpp", "0.5"], 2, "give --slide"),
        (["--backend", "magic"], 2, "'magic' is not one of 'auto'"),
        (["--json", "file/out.json"], 1, "file is not a folder"),
    ],
)
def test_bad_options_are_refused(
    invoke, bundle, arguments, status: int, named: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    finished = invoke("bench", bundle.path, *arguments)
    assert finished.status == status
    assert named in finished.err


def test_compare_of_equal_results_is_no_regression(invoke, before: Path) -> None:
    finished = invoke("bench", "compare", before, before)
    assert finished.status == 0
    assert "0 of 1 cases slower" in finished.out
    assert finished.err == ""


def test_compare_exits_1_on_a_slowdown_of_a_fifth(invoke, before: Path, slower: Path) -> None:
    finished = invoke("bench", "compare", before, slower)
    assert finished.status == 1
    (line,) = finished.err.splitlines()
    assert line.startswith("error: ")
    assert "1 of 1 cases became slower by more than 10 %" in line
    assert "+20.0%" in finished.out
    assert "slower" in finished.out


def test_compare_accepts_more_with_a_higher_threshold(invoke, before: Path, slower: Path) -> None:
    assert invoke("bench", "compare", before, slower, "--threshold", 0.3).status == 0


def test_compare_gives_json_alone(invoke, before: Path, slower: Path) -> None:
    finished = invoke("bench", "compare", before, slower, "--json")
    assert finished.status == 1
    content = json.loads(finished.out)
    assert content["regression"] is True
    assert content["cases"][0]["verdict"] == "slower"


def test_compare_refuses_what_is_no_result(invoke, before: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    finished = invoke("bench", "compare", before, other)
    assert finished.status == 1
    assert "schema version None" in finished.err
    assert invoke("bench", "compare", before).status == 2
    assert invoke("bench", "compare", before, tmp_path / "absent.json").status == 2


def test_help_of_compare_has_its_own_example(capsys) -> None:
    assert run(["bench", "compare", "--help"]) == 0
    text = capsys.readouterr().out
    assert "bench compare [OPTIONS] BEFORE AFTER" in text
    assert "Example: triplex-deploy bench compare" in text


def test_what_was_not_measured_is_listed_with_its_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    peak = Peak(flops_per_s=8e10, instructions="avx2", how="made up")
    ceilings = Ceilings(
        flops_per_s=1e11,
        bytes_per_s=1e11,
        how="made up",
        peaks={"fp32": peak},
        peaks_absent={"bf16": "this CPU does not multiply it in hardware"},
    )
    result = make_result(make_case([[10.0], [10.0]])).model_copy(
        update={
            "ceilings": ceilings,
            "subjects_absent": {"bf16": "run `pip install 'triplex-deploy[cpu]'`"},
        }
    )
    print_result(result)
    shown = capsys.readouterr().out
    assert "not measured: bf16: run `pip install 'triplex-deploy[cpu]'`" in shown
    assert "peak fp32: 80 GFLOP/s (avx2)" in shown
    assert "peak bf16: none, this CPU does not multiply it in hardware" in shown
    assert "cosine at least 0.999900" in shown
    assert " 125%" in shown  # 1e9 operations in 10 ms, of 8e10 per second
