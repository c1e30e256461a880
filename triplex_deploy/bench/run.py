"""``run_bench``: open every subject, measure every case in turns, and record the result."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from triplex_deploy.bench.machine import PACKAGES, Clock, WallClock, measure_ceilings, read_machine
from triplex_deploy.bench.measure import Case, measure
from triplex_deploy.bench.options import BenchOptions
from triplex_deploy.bench.result import (
    END_TO_END,
    SCHEMA_VERSION,
    SERVER,
    Accuracy,
    BenchResult,
    CaseResult,
    Graph,
    Subject,
)
from triplex_deploy.bench.slide_work import SlideWork
from triplex_deploy.bench.summary import Counted, case_result
from triplex_deploy.bench.work import GraphWork, Work, copies_absent, made_up_inputs, transfers_note
from triplex_deploy.bundle import GraphEntry, Target, parity_file
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.his_to_gene import HisToGeneConfig
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.errors import ConfigError, TriplexError
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.runtime.model import Model, load_bundle
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.system import installed_versions


@dataclass(frozen=True)
class _Opened:
    """A subject and its loaded graphs."""

    label: str
    model: Model

    def entry(self, graph: str) -> GraphEntry:
        return self.model.entry(graph)


def run_bench(
    options: BenchOptions, progress: Progress | None = None, clock: Clock | None = None
) -> BenchResult:
    """Measure as ``options`` say.

    Raises ``BundleError`` and ``BackendError`` for subjects that do not open, ``ConfigError`` for
    graphs that no bundle has, and what ``predict_slide`` raises for the slide.
    """
    clock = clock or WallClock()
    machine = read_machine()  # before our own load is part of it
    with ExitStack() as stack:
        subjects = _open(options, stack)
        cases = [*_graph_cases(subjects, options, clock), *_slide_cases(subjects, options, clock)]
        if not cases:
            raise ConfigError(
                f"graphs {', '.join(options.only_graphs)}: no bundle has them; "
                f"they have {', '.join(subjects[0].model.sessions)}"
            )
        around = measure(cases, options.settings, clock, progress or Silent())
        on_cpu = all(subject.model.device.kind == "cpu" for subject in subjects)
        return BenchResult(
            schema_version=SCHEMA_VERSION,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            command=options.command,
            machine=machine,
            versions=installed_versions(PACKAGES),
            settings=options.settings,
            ceilings=measure_ceilings(clock) if on_cpu else None,
            probe_ms=tuple(1e3 * probe for probe in around.probe_s),
            other_work=around.others,
            subjects=tuple(_subject(subject, options) for subject in subjects),
            cases=_results(cases, subjects, options),
        )


def _open(options: BenchOptions, stack: ExitStack) -> list[_Opened]:
    opened: list[_Opened] = []
    for path, backend, precision in product(
        options.bundles, options.backends, options.precisions or (None,)
    ):
        bundle = load_bundle(path)
        model = stack.enter_context(
            bundle.open(options.device, backend, options.threads, precision=precision)
        )
        name = f"{_precision(model)} {model.backend} {model.device}"
        earlier = [subject.label.partition(" #")[0] for subject in opened].count(name)
        opened.append(_Opened(f"{name} #{earlier + 1}" if earlier else name, model))
    return opened


def _precision(model: Model) -> str:
    """Return the precisions of its graphs other than the default, or the default."""
    precisions = {model.graph_precision(graph) for graph in model.sessions}
    return "+".join(sorted(precisions - {DEFAULT})) or DEFAULT


def _graph_cases(subjects: list[_Opened], options: BenchOptions, clock: Clock) -> list[Case]:
    """Every graph at every size in every scenario; the subjects of one case follow each other."""
    names = dict.fromkeys(name for subject in subjects for name in subject.model.sessions)
    configs = [subject.model.bundle.config for subject in subjects]
    known = min((c.n_positions for c in configs if isinstance(c, HisToGeneConfig)), default=1)
    inputs = _Inputs(options, known)
    cases = []
    for name in (options.only_graphs or names) if options.graphs else ():
        sessions = [(s, s.model.sessions[name]) for s in subjects if name in s.model.sessions]
        sizes = _sizes(sessions[0][1].spec, options) if sessions else ()
        for size, scenario, (subject, session) in product(sizes, options.scenarios, sessions):
            absent = copies_absent(subject.model)
            made_up = inputs.of(session.spec, size)
            where = f"{subject.model.precision} on {subject.model.device}"
            work = GraphWork(session, size, made_up, clock, absent, where)
            cases.append(_case(subject, work, scenario, options))
    return cases


class _Inputs:
    """Made-up inputs, shared by all cases of one shape; rows of a batch also by all sizes."""

    def __init__(self, options: BenchOptions, n_positions: int) -> None:
        self._options = options
        self._n_positions = n_positions
        self._made: dict[tuple[GraphSpec, int], Arrays] = {}

    def of(self, spec: GraphSpec, size: int) -> Arrays:
        """Inputs of ``size`` rows, or more of them where rows do not belong together."""
        rows = max(self._options.batch_sizes) if spec.kind != "per slide" else size
        if (spec, rows) not in self._made:
            seed = self._options.seed
            self._made[spec, rows] = made_up_inputs(spec, rows, seed, self._n_positions)
        return self._made[spec, rows]


def _slide_cases(subjects: list[_Opened], options: BenchOptions, clock: Clock) -> list[Case]:
    if not options.end_to_end:
        return []
    if options.slide is None:
        raise ConfigError("end_to_end: there is no slide to predict; give one")
    cases = []
    for subject, scenario in product(subjects, options.scenarios):
        work = SlideWork(subject.model, options.slide, options.slide_options, clock)
        cases.append(_case(subject, work, scenario, options))
    return cases


def _case(subject: _Opened, work: Work, scenario: str, options: BenchOptions) -> Case:
    return Case(subject.label, work, scenario, options.rate_per_s if scenario == SERVER else None)


def _sizes(spec: GraphSpec, options: BenchOptions) -> tuple[int, ...]:
    return options.batch_sizes if spec.kind != "per slide" else options.token_counts


def _results(
    cases: list[Case], subjects: list[_Opened], options: BenchOptions
) -> tuple[CaseResult, ...]:
    by_label = {subject.label: subject for subject in subjects}
    return tuple(case_result(case, _counted(case, by_label, options)) for case in cases)


def _counted(case: Case, subjects: dict[str, _Opened], options: BenchOptions) -> Counted:
    if case.work.graph == END_TO_END:
        return Counted(absent="counted per graph, not for a slide")
    if case.scenario == SERVER:
        return Counted(absent="calls of a server differ in size")
    if options.count_cost is None:
        return Counted(absent=options.cost_absent)
    subject = subjects[case.subject]
    path = subject.model.bundle.path / subject.entry(case.work.graph).file
    try:
        return Counted(*options.count_cost(path, {case.work.axis: case.work.size}))
    except TriplexError as error:
        return Counted(absent=str(error))


def _subject(subject: _Opened, options: BenchOptions) -> Subject:
    model = subject.model
    bundle = model.bundle
    accuracy, absent = read_accuracy(bundle.path, model.target)
    return Subject(
        label=subject.label,
        bundle=str(bundle.path),
        bundle_id=bundle.id,
        precision=_precision(model),
        backend=model.backend,
        device=str(model.device),
        threads=options.threads,
        transfers=transfers_note(model),
        cuda_graphs=False,
        graphs={
            name: Graph(sha256=entry.sha256, precision=entry.precision, opset=entry.opset)
            for name, entry in ((name, subject.entry(name)) for name in model.sessions)
        },
        accuracy=accuracy,
        accuracy_absent=absent,
    )


def read_accuracy(bundle: Path, target: Target) -> tuple[Accuracy | None, str | None]:
    """What the export found of the graphs for ``target``, or None and the reason why not."""
    name = parity_file(target)
    try:
        report = json.loads((bundle / name).read_text(encoding="utf-8"))
        return _accuracy(report, name), None
    except OSError as error:
        return None, f"{name} cannot be read ({error.strerror})"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        return None, f"{name} is of another form ({type(error).__name__}: {error})"


def _accuracy(report: dict[str, Any], source: str) -> Accuracy:
    graphs, chain = report["graphs"], report["end_to_end"]
    worst = max(graphs, key=lambda graph: float(graph["relative"]))
    return Accuracy(
        source=source,
        passed=bool(report["passed"]),
        reference=str(report["reference"]),
        worst_graph=str(worst["graph"]),
        worst_relative=float(worst["relative"]),
        least_cosine=min(float(graph["cosine"]) for graph in graphs),
        median_gene_pcc=float(chain["median_gene_pcc"]),
        min_gene_pcc=float(chain["min_gene_pcc"]),
    )
