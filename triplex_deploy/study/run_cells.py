"""Train the cells of a study: here, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from triplex_deploy.cohort.executor import ExecutorChoice, threads_each
from triplex_deploy.cohort.pool import Executor, PoolExecutor, SerialExecutor
from triplex_deploy.progress import Progress
from triplex_deploy.study.cells import StudyCell, metrics_of
from triplex_deploy.study.train_cell import CellOutcome, train_cell

if TYPE_CHECKING:
    from triplex_deploy.cohort.ray_workers import NodeResources, TaskSize

RAY_ATTEMPTS: Final = 5
"""Maximum attempts for a cell whose Ray node is lost; each goes on where the last one ended."""


@dataclass(frozen=True)
class CellProgram:
    """Train one cell after another: the ``WorkerProgram`` of a study."""

    wait: bool
    """Wait for a cell that another process trains."""
    threads: int | None = None
    """CPU threads of torch; None leaves them as they are."""

    @contextmanager
    def open(self) -> Iterator[Callable[[StudyCell, Progress], CellOutcome]]:
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        yield lambda cell, _progress: train_cell(cell, self.wait)


def run_cells(cells: Sequence[StudyCell], choice: ExecutorChoice) -> Iterator[CellOutcome]:
    """Yield one outcome per cell, in any order; finished cells come first.

    A cell that another process trains is left for last and then waited for: it is kept if that
    process finishes it, and trained here if that process dies.
    """
    unfinished = []
    for cell in cells:
        if metrics_of(cell) is None:
            unfinished.append(cell)
        else:
            yield CellOutcome(cell, "kept")
    elsewhere = []
    for outcome in _run_all(unfinished, choice, wait=False):
        if outcome.status == "elsewhere":
            elsewhere.append(outcome.cell)
        else:
            yield outcome
    yield from _run_all(elsewhere, choice, wait=True)


def _run_all(
    cells: Sequence[StudyCell], choice: ExecutorChoice, wait: bool
) -> Iterator[CellOutcome]:
    if cells:
        with _make_executor(choice, wait, len(cells)) as executor:
            yield from executor.run(cells)


def _make_executor(
    choice: ExecutorChoice, wait: bool, n_cells: int
) -> Executor[StudyCell, CellOutcome]:
    if choice.executor == "ray":
        from triplex_deploy.cohort.ray_workers import RayTasks

        tasks = RayTasks(
            lambda size: CellProgram(wait, size.cpus),
            task_size,
            limit=choice.workers or n_cells,
            max_attempts=RAY_ATTEMPTS,
        )
        return PoolExecutor(tasks, _failed)
    workers = min(choice.workers or 1, n_cells)
    if workers == 1:
        return SerialExecutor(CellProgram(wait))
    from triplex_deploy.cohort.process_workers import ProcessWorkers

    # A training that is killed may have used up the memory: it is not tried again at once.
    program = CellProgram(wait, threads_each(workers))
    processes = ProcessWorkers(program, workers, max_attempts=1, is_single_use=True)
    return PoolExecutor(processes, _failed)


def task_size(cell: StudyCell, nodes: Sequence[NodeResources]) -> TaskSize:
    """Return what the Ray task of a cell reserves: its GPUs and 1 CPU core, or up to 4 cores."""
    from triplex_deploy.cohort.ray_workers import MAX_CPUS_EACH, TaskSize

    if cell.options.accelerator in ("cuda", "gpu"):
        return TaskSize(cpus=1, gpus=cell.options.devices)
    return TaskSize(cpus=min(MAX_CPUS_EACH, max(int(node.get("CPU", 1)) for node in nodes)))


def _failed(cell: StudyCell, reason: str) -> CellOutcome:
    return CellOutcome(cell, "failed", f"{reason}; run the study again")
