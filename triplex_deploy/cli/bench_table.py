"""Print benchmark results and comparisons as tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from triplex_deploy.bench.compare import CaseComparison, Comparison
from triplex_deploy.bench.result import BenchResult, CaseResult, Subject

WIDTH_ELSEWHERE = 160
"""Width in columns if stdout is not a terminal."""
STAGES_SHOWN = 3
NUMBERS = ("before ms", "after ms", "change", "noise")
STYLES = {"slower": "bold red", "faster": "green", "within noise": "yellow", "same": ""}


def print_result(result: BenchResult) -> None:
    """Print subjects with their accuracy, peak rates, every case, and notes about the numbers."""
    console = _console()
    machine = result.machine
    console.print(
        f"{machine.cpu}, {machine.usable_cores} of {machine.cores} cores, load {machine.load:g}"
        + "".join(f", {gpu.name} ({gpu.driver})" for gpu in machine.gpus)
    )
    if machine.instructions:
        console.print(f"instructions: {', '.join(machine.instructions)}")
    console.print(_subjects(result))
    for line in _remarks(result):
        console.print(line, markup=False)  # a remedy may have brackets
    console.print(_cases(result))
    for line in _notes(result):
        console.print(line, markup=False)


def print_comparison(comparison: Comparison) -> None:
    """Print every common case with its verdict, and the cases that only one result has."""
    console = _console()
    table = _table(f"threshold {comparison.threshold:.0%}")
    for name in ("case", "by", "before ms", "after ms", "change", "noise", "verdict"):
        table.add_column(name, justify="right" if name in NUMBERS else "left")
    for case in comparison.cases:
        table.add_row(*_comparison_row(case), style=STYLES[case.verdict])
    console.print(table)
    for name, keys in (("before", comparison.only_before), ("after", comparison.only_after)):
        for key in keys:
            console.print(f"only in {name}: {key}")
    undecided = f", {comparison.undecided} undecided" if comparison.undecided else ""
    console.print(f"{len(comparison.slower)} of {len(comparison.cases)} cases slower{undecided}")


def _console() -> Console:
    return Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE, highlight=False
    )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD)


def _subjects(result: BenchResult) -> Table:
    table = _table("subjects")
    for name in ("subject", "bundle", "id", "threads", "copies"):
        table.add_column(name)
    for subject in result.subjects:
        threads = "auto" if subject.threads is None else str(subject.threads)
        table.add_row(subject.label, subject.bundle, subject.bundle_id, threads, subject.transfers)
    return table


def _accuracy(subject: Subject) -> str:
    found = subject.accuracy
    if found is None:
        return f"unknown: {subject.accuracy_absent}"
    return (
        f"{'passed' if found.passed else 'FAILED'}, cosine at least {found.least_cosine:.6f}, "
        f"gene PCC median {found.median_gene_pcc:.6f} least {found.min_gene_pcc:.6f}, "
        f"{found.worst_graph} off by {found.worst_relative:.1e} ({found.source})"
    )


def _remarks(result: BenchResult) -> Iterator[str]:
    """Yield the accuracy of subjects, why others were not measured, then the peak rates."""
    for subject in result.subjects:
        yield f"against PyTorch fp32: {subject.label}: {_accuracy(subject)}"
    for name, reason in result.subjects_absent.items():
        yield f"not measured: {name}: {reason}"
    if result.ceilings is not None:
        for name, peak in result.ceilings.peaks.items():
            yield f"peak {name}: {peak.flops_per_s / 1e9:,.0f} GFLOP/s ({peak.instructions})"
        for name, reason in result.ceilings.peaks_absent.items():
            yield f"peak {name}: none, {reason}"


def _cases(result: BenchResult) -> Table:
    several = len(result.subjects) > 1
    table = _table("latency of a query in ms")
    for name in ("graph", "scenario", "size", *(("subject",) if several else ())):
        table.add_column(name, no_wrap=True)
    for name in ("n", "min", "mean", "p50", "p90", "p95", "p99", "per s", "CPU ms", "of roof"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("x first" if several else "stages", justify="right" if several else "left")
    first: dict[tuple[object, ...], float] = {}
    for case in result.cases:
        what = (case.graph, case.scenario, case.size)
        base = first.setdefault(what, case.throughput_per_s)
        row = [case.graph, _scenario(case), f"{case.axis} {case.size}"]
        row += [case.subject] if several else []
        row += [*_times(case), f"{_number(case.throughput_per_s)} {case.unit}"]
        row += ["" if case.cpu_ms is None else _number(case.cpu_ms), _of_roof(case, result)]
        table.add_row(*row, f"{case.throughput_per_s / base:.2f}" if several else _stages(case))
    return table


def _of_roof(case: CaseResult, result: BenchResult) -> str:
    """Return the rate of the median run, in percent of what its precision could reach."""
    subject = next((s for s in result.subjects if s.label == case.subject), None)
    if result.ceilings is None or case.cost is None or subject is None:
        return ""
    moving = result.ceilings.bytes_per_s * case.cost.flops / max(1, case.cost.traffic_bytes)
    roof = min(moving, result.ceilings.roof(subject.graphs[case.graph].precision))
    return f"{case.cost.flops_per_s / roof:.0%}"


def _scenario(case: CaseResult) -> str:
    return case.scenario if case.rate_per_s is None else f"{case.scenario} {case.rate_per_s:g}/s"


def _times(case: CaseResult) -> Iterator[str]:
    """Yield ``n`` and the percentiles; a p99 that is not stable has a mark."""
    times = case.latency_ms
    yield str(times.n)
    for value in (times.min, times.mean, times.p50, times.p90, times.p95):
        yield _number(value)
    yield f"{'' if times.p99_stable else '~'}{_number(times.p99)}"


def _number(value: float) -> str:
    """Return four digits, never a power of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _stages(case: CaseResult) -> str:
    """Return the largest parts of the mean."""
    parts = sorted(case.stages_ms.items(), key=lambda item: -item[1])[:STAGES_SHOWN]
    mean = case.latency_ms.mean
    shown = [(name, ms / mean) for name, ms in parts if ms / mean >= 0.01]
    return ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in shown)


def _notes(result: BenchResult) -> Iterator[str]:
    """Yield one line about the p99 of all cases, then the other notes."""
    shaky = [case for case in result.cases if not case.latency_ms.p99_stable]
    if shaky:
        counts = [case.latency_ms.n for case in shaky]
        yield (
            f"~ p99 is not stable in {len(shaky)} of {len(result.cases)} cases, with {min(counts)} "
            f"to {max(counts)} queries; 368 bound it, more --seconds narrow it (intervals: --json)"
        )
    for case in result.cases:
        yield from (f"{case.key}: {note}" for note in case.notes if not note.startswith("p99"))


def _comparison_row(case: CaseComparison) -> tuple[str, ...]:
    return (
        case.key,
        case.by,
        _number(case.before_ms),
        _number(case.after_ms),
        f"{case.ratio - 1:+.1%}",
        f"{case.noise:.1%}",
        case.verdict,
    )
