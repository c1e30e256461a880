"""Test the plots: a PNG of four panels, whatever a result lacks."""

from pathlib import Path

import pytest
from PIL import Image

from tests.bench.conftest import make_case, make_result
from triplex_deploy.bench import plots
from triplex_deploy.bench.machine import measure_ceilings
from triplex_deploy.bench.result import END_TO_END, SERVER, BenchResult, Ceilings, Peak
from triplex_deploy.errors import OutputError


def rounds(ms: float) -> list[list[float]]:
    return [[ms, 1.1 * ms, 1.3 * ms], [1.05 * ms, 1.2 * ms, 2 * ms]]


@pytest.fixture
def sweep() -> BenchResult:
    """Two graphs at two sizes, a server, a slide."""
    slide = make_case(rounds(900), graph=END_TO_END)
    server = make_case(rounds(5), graph="fusion_head").model_copy(
        update={"scenario": SERVER, "cost": None, "cost_absent": "calls differ in size"}
    )
    return make_result(
        *(make_case(rounds(3 * size), size) for size in (1, 8)),
        *(make_case(rounds(size), size, "fusion_head") for size in (1, 8)),
        server,
        slide.model_copy(update={"cost": None, "cost_absent": "counted per graph"}),
    ).model_copy(update={"ceilings": Ceilings(flops_per_s=1e11, bytes_per_s=1e10, how="made up")})


def test_plot_is_a_png_with_something_in_each_quarter(sweep: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    plots.write_plots(sweep, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        for left in (0, width // 2):
            for top in (0, height // 2):
                quarter = picture.crop((left, top, left + width // 2, top + height // 2))
                assert len(quarter.convert("RGB").getcolors(1 << 20) or []) > 20


def test_lines_hold_sizes_of_one_graph_and_leave_servers_out(sweep: BenchResult) -> None:
    lines = {name: [case.size for case in cases] for name, cases, _ in plots._lines(sweep)}
    assert lines == {"tile_encoder SingleStream": [1, 8], "fusion_head SingleStream": [1, 8]}


def test_many_cases_are_thinned_and_missing_costs_are_said(tmp_path: Path) -> None:
    cases = [
        make_case(rounds(1), size).model_copy(update={"cost": None, "cost_absent": "no onnx"})
        for size in range(1, 100)
    ]
    result = make_result(*cases)
    assert len(plots._shown(result)) <= plots.MAX_ROWS
    plots.write_plots(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_plot_into_a_file_is_refused(sweep: BenchResult, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        plots.write_plots(sweep, tmp_path / "file" / "plot.png")


def test_ceilings_are_the_best_of_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from triplex_deploy.bench import machine

    class Ticking:
        """Each pair of readings lies one second apart, except one: half a second."""

        def __init__(self) -> None:
            self.times = iter([0, 9, 10, 11, 12, 12.5, 14, 15] * 2)

        def now(self) -> float:
            return next(self.times)

        def sleep(self, seconds: float) -> None:
            raise AssertionError

    monkeypatch.setattr(machine, "RUNS", 3)
    monkeypatch.setattr(machine, "measure_peaks", lambda clock: ({}, {"int8": "not asked for"}))
    found = measure_ceilings(Ticking())
    assert found.flops_per_s == 2 * 1024**3 / 0.5
    assert found.bytes_per_s == 2 * 2**26 / 0.5
    assert found.peaks_absent == {"int8": "not asked for"}


def test_each_measured_precision_has_its_own_roof(sweep: BenchResult) -> None:
    peaks = {
        "fp32": Peak(flops_per_s=1e11, instructions="avx2", how="made up"),
        "int8": Peak(flops_per_s=4e11, instructions="avx_vnni", how="made up"),
    }
    assert sweep.ceilings is not None
    ceilings = sweep.ceilings.model_copy(update={"peaks": peaks})
    fp32 = sweep.model_copy(update={"ceilings": ceilings})
    assert plots._roofs(fp32) == [("fp32, avx2", 100.0)]
    (subject,) = sweep.subjects
    graphs = {
        "tile_encoder": subject.graphs["tile_encoder"].model_copy(update={"precision": "int8"})
    }
    quantized = subject.model_copy(update={"graphs": graphs})
    int8 = fp32.model_copy(update={"subjects": (subject, quantized)})
    assert plots._roofs(int8) == [("fp32, avx2", 100.0), ("int8, avx_vnni", 400.0)]
    assert plots._roofs(sweep) == [("roof by NumPy", 100.0)]
