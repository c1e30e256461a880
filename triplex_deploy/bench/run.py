"""Open every subject of a benchmark, measure all cases in turns, and record the result."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product

from triplex_deploy.bench.accuracy import measure_accuracy
from triplex_deploy.bench.machine import (
    PACKAGES,
    Clock,
    WallClock,
    measure_ceilings,
    read_machine,
)
from triplex_deploy.bench.measure import Case, measure
from triplex_deploy.bench.options import BenchOptions
from triplex_deploy.bench.result import (
    END_TO_END,
    SCHEMA_VERSION,
    SERVER,
    BenchResult,
    CaseResult,
    Graph,
    Subject,
)
from triplex_deploy.bench.slide_work import SlideWork
from triplex_deploy.bench.summary import Counted, case_result
from triplex_deploy.bench.work import GraphWork, Work, copies_absent, made_up_inputs, transfers_note
from triplex_deploy.bundle import GraphEntry
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.his_to_gene import HisToGeneConfig
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.errors import BackendError, ConfigError, TriplexError
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
    """Measure graphs and slides.

    Args:
        options: What to measure.
        progress: Shows the progress; None for none.
        clock: Measures the seconds; None for the clock of the machine.

    Returns:
        The result.

    Raises:
        BundleError: If a bundle is missing or damaged.
        BackendError: If no subject can be opened.
        ConfigError: If no bundle has the graphs.
        TriplexError: If the slide cannot be predicted, see ``predict_slide``.
    """
    clock = clock or WallClock()
    machine = read_machine()  # before the load of this process is part of it
    with ExitStack() as stack:
        subjects, absent = _open(options, stack)
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
            subjects_absent=absent,
        )


def _open(options: BenchOptions, stack: ExitStack) -> tuple[list[_Opened], dict[str, str]]:
    """Open every subject; also return why others cannot be opened, unless that is all of them."""
    opened: list[_Opened] = []
    absent: dict[str, str] = {}
    choices = product(options.bundles, options.backends, options.precisions or (None,))
    for path, backend, precision in choices:
        bundle = load_bundle(path)
        try:
            model = stack.enter_context(
                bundle.open(options.device, backend, options.threads, precision=precision)
            )
        except BackendError as error:
            absent[" ".join(filter(None, (precision, backend, str(path))))] = str(error)
            continue
        name = f"{_precision(model)} {model.backend} {model.device}"
        earlier = [subject.label.partition(" #")[0] for subject in opened].count(name)
        opened.append(_Opened(f"{name} #{earlier + 1}" if earlier else name, model))
    if not opened:
        raise BackendError("; ".join(dict.fromkeys(absent.values())))
    return opened, absent


def _precision(model: Model) -> str:
    """Return the precisions of its graphs other than the default, or the default."""
    precisions = {model.graph_precision(graph) for graph in model.sessions}
    return "+".join(sorted(precisions - {DEFAULT})) or DEFAULT


def _graph_cases(subjects: list[_Opened], options: BenchOptions, clock: Clock) -> list[Case]:
    """Return every graph at every size in every scenario; subjects of a case follow each other."""
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
    """Made-up inputs, which all cases of a shape share; those of a batch also serve all sizes."""

    def __init__(self, options: BenchOptions, n_positions: int) -> None:
        self._options = options
        self._n_positions = n_positions
        self._made: dict[tuple[GraphSpec, int], Arrays] = {}

    def of(self, spec: GraphSpec, size: int) -> Arrays:
        """Return inputs of ``size`` rows, or of more rows if they do not belong together."""
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
    accuracy, absent = measure_accuracy(model)
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
            name: Graph(
                sha256=subject.entry(name).sha256,
                precision=model.graph_precision(name),
                opset=subject.entry(name).opset,
            )
            for name in model.sessions
        },
        accuracy=accuracy,
        accuracy_absent=absent,
    )
