"""Draw a result as a PNG of four panels; only this module of ``bench`` needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from triplex_deploy.bench.result import END_TO_END, SERVER, BenchResult, CaseResult
from triplex_deploy.bench.work import OTHER, STAGES
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import PNG_MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Palette of Okabe and Ito, for color-blind readers too."""
MARKERS: Final = "osD^vP*X"
STAGE_COLORS: Final = dict(zip((*STAGES, OTHER), (*COLORS, "#f0e442", "#bbbbbb"), strict=True))
WHISKERS: Final = (1, 99)
ROOF_STYLES: Final = ("-", "--", ":", "-.")
MAX_ROWS: Final = 40
"""Maximum number of cases with a name in a panel; of more, every n-th is shown."""


def write_plots(result: BenchResult, path: Path) -> None:
    """Draw throughput over size, latencies, stages and roofline.

    Raises:
        OutputError: If the file cannot be written.
    """
    rows = min(len(result.cases), MAX_ROWS)
    figure = Figure(figsize=(17, 9 + max(0, rows - 20) * 0.22), layout="constrained")
    FigureCanvasAgg(figure)
    throughput, latency, stages, roofline = figure.subplots(2, 2).ravel()
    _draw_throughput(throughput, result)
    _draw_latency(latency, result)
    _draw_stages(stages, result)
    _draw_roofline(roofline, result)
    figure.suptitle(_title(result))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata=PNG_MARK)


def _title(result: BenchResult) -> str:
    several = len(result.subjects) > 1
    lines = [f"{result.machine.cpu}, {result.machine.usable_cores} cores"]
    for subject in result.subjects:
        letter = f"{_letter(subject.label, result)}: " if several else ""
        lines.append(f"{letter}{subject.label}, bundle {subject.bundle_id}")
    return "\n".join(lines)


def _lines(result: BenchResult) -> Iterator[tuple[str, list[CaseResult], dict[str, Any]]]:
    """Yield cases that differ only by size, with the name and the style of their line.

    A server has no line: its rate is that of its queries, not the highest that it could reach.
    """
    lines: dict[str, list[CaseResult]] = {}
    for case in result.cases:
        if case.graph != END_TO_END and case.scenario != SERVER:
            lines.setdefault(_line_name(case, result), []).append(case)
    for number, (name, cases) in enumerate(lines.items()):
        yield name, cases, _style(number)


def _line_name(case: CaseResult, result: BenchResult) -> str:
    parts = [case.graph]
    if len({other.scenario for other in result.cases}) > 1:
        parts.append(case.scenario)
    if len(result.subjects) > 1:
        parts.append(_letter(case.subject, result))
    return " ".join(parts)


def _letter(label: str, result: BenchResult) -> str:
    """Return A, B, ... for a subject; the title has the whole names."""
    labels = [subject.label for subject in result.subjects]
    return chr(ord("A") + labels.index(label))


def _case_name(case: CaseResult, result: BenchResult) -> str:
    return f"{_line_name(case, result)}, {case.axis} {case.size}"


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLORS) % 3],
    }


def _draw_throughput(axes: Axes, result: BenchResult) -> None:
    axes.set_title("Throughput against size of a call")
    lines = list(_lines(result))
    if not lines:
        return _write(axes, "no graph was measured alone, except by a server")
    for name, cases, style in lines:
        sizes = [case.size for case in cases]
        rates = [case.throughput_per_s for case in cases]
        axes.loglog(sizes, rates, label=name, **style)
    axes.set_xlabel("tiles or spots per call")
    axes.set_ylabel("tiles or spots per second")
    _finish_log(axes)
    return None


def _shown(result: BenchResult) -> list[CaseResult]:
    step = -(-len(result.cases) // MAX_ROWS)
    return list(result.cases[::step])


def _draw_latency(axes: Axes, result: BenchResult) -> None:
    shown = _shown(result)
    axes.set_title("Latency of a query: quartiles, and the 1st to 99th percentile")
    axes.boxplot(
        [case.samples_ms for case in shown],
        orientation="horizontal",
        whis=WHISKERS,
        showfliers=False,
        medianprops={"color": COLORS[1]},
    )
    axes.set_yticks(range(1, len(shown) + 1), [_case_name(case, result) for case in shown])
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_xlabel("ms")
    axes.grid(axis="x", alpha=0.3)


def _draw_stages(axes: Axes, result: BenchResult) -> None:
    shown = _shown(result)
    axes.set_title("Where a query's time goes, mean")
    left = np.zeros(len(shown))
    for stage, color in STAGE_COLORS.items():
        parts = np.array([100 * c.stages_ms.get(stage, 0) / c.latency_ms.mean for c in shown])
        if parts.any():
            axes.barh(range(len(shown)), parts, left=left, color=color, label=_words(stage))
        left += parts
    axes.set_yticks(range(len(shown)), [_case_name(case, result) for case in shown])
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the latency")
    _legend_beside(axes)


def _draw_roofline(axes: Axes, result: BenchResult) -> None:
    axes.set_title("Roofline: rate against operations per byte")
    drawn = 0
    for _, cases, style in _lines(result):
        points = [_point(case) for case in cases if case.cost is not None]
        drawn += len(points)
        if points:
            axes.loglog(*zip(*points, strict=True), **style)
    if not drawn:
        reasons = {case.cost_absent for case in result.cases if case.cost_absent}
        return _write(axes, "not counted: " + "; ".join(sorted(reasons)))
    _draw_roof(axes, result)
    axes.set_xlabel("operations per byte of traffic")
    axes.set_ylabel("GFLOP/s")
    _finish_log(axes)
    return None


def _point(case: CaseResult) -> tuple[float, float]:
    """Return operations per byte, and 1e9 operations per second."""
    assert case.cost is not None
    return case.cost.flops / case.cost.traffic_bytes, case.cost.flops_per_s / 1e9


def _draw_roof(axes: Axes, result: BenchResult) -> None:
    if result.ceilings is None:
        return
    slope = result.ceilings.bytes_per_s / 1e9
    low, high = axes.get_xlim()
    for style, (label, top) in zip(ROOF_STYLES, _roofs(result), strict=False):
        ridge = top / slope
        axes.loglog(
            [min(low, ridge / 10), ridge, max(high, ridge * 10)],
            [min(low, ridge / 10) * slope, top, top],
            color="black",
            linestyle=style,
            label=label,
        )


def _roofs(result: BenchResult) -> list[tuple[str, float]]:
    """Return name and 1e9 operations per second of the roof of each precision that was measured."""
    ceilings = result.ceilings
    if ceilings is None:
        return []
    used = {graph.precision for subject in result.subjects for graph in subject.graphs.values()}
    peaks = {name: peak for name, peak in ceilings.peaks.items() if name in used}
    if not peaks:
        return [("roof by NumPy", ceilings.flops_per_s / 1e9)]
    return [(f"{name}, {p.instructions}", p.flops_per_s / 1e9) for name, p in peaks.items()]


def _finish_log(axes: Axes) -> None:
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        _legend_beside(axes)


def _legend_beside(axes: Axes) -> None:
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10 instead of powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _words(stage: str) -> str:
    return stage.replace("_", " ")


def _write(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=axes.transAxes)
    axes.set_axis_off()
