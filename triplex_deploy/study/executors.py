"""Cells one after the other, in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from triplex_deploy.cohort.executor import ExecutorChoice, threads_each
from triplex_deploy.study.cells import Cell, metrics_of
from triplex_deploy.study.train_cell import CellOutcome, train_cell

GRACE_S: Final = 2.0


def run_cells(cells: Sequence[Cell], choice: ExecutorChoice) -> Iterator[CellOutcome]:
    """Yield one outcome per cell, in any order; those done already come first.

    What another process works on is left to the end and waited for: it is done then, or ours.
    """
    open_cells = []
    for cell in cells:
        if metrics_of(cell) is None:
            open_cells.append(cell)
        else:
            yield CellOutcome(cell, "kept")
    elsewhere = []
    for outcome in _run_cells(open_cells, choice, is_last=False):
        if outcome.status == "elsewhere":
            elsewhere.append(outcome.cell)
        else:
            yield outcome
    yield from _run_cells(elsewhere, choice, is_last=True)


def _run_cells(
    cells: Sequence[Cell], choice: ExecutorChoice, is_last: bool
) -> Iterator[CellOutcome]:
    if not cells:
        return
    if choice.kind == "ray":
        from triplex_deploy.study.ray_tasks import run_on_ray

        yield from run_on_ray(cells, choice.workers, is_last)
    elif min(choice.workers or 1, len(cells)) > 1:
        yield from _in_processes(cells, choice.workers or 1, is_last)
    else:
        yield from (train_cell(cell, is_last) for cell in cells)


def _in_processes(cells: Sequence[Cell], workers: int, is_last: bool) -> Iterator[CellOutcome]:
    """A process per cell, ``workers`` at a time: one that is killed takes its own cell alone."""
    queue, running = deque(cells), dict[Connection, tuple[SpawnProcess, Cell]]()
    context = multiprocessing.get_context("spawn")  # a fork of torch's threads would hang
    try:
        while queue or running:
            while queue and len(running) < workers:
                ours, theirs = context.Pipe(duplex=False)
                cell = queue.popleft()
                arguments = (theirs, cell, is_last, threads_each(workers))
                process = context.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                theirs.close()  # so that the process's death ends the pipe
                running[ours] = (process, cell)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                yield _collect(connection, *running.pop(connection))
    finally:
        _stop([process for process, _ in running.values()])


def _serve(connection: Connection, cell: Cell, is_last: bool, threads: int) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(OSError):
        connection.send(train_cell(cell, is_last))


def _collect(connection: Connection, process: SpawnProcess, cell: Cell) -> CellOutcome:
    """The outcome a process sent, or that it died without one."""
    with connection, suppress(EOFError, OSError):
        outcome = connection.recv()
        assert isinstance(outcome, CellOutcome)
        process.join()
        return outcome
    process.join()
    error = f"{cell.key}: its process ended with status {process.exitcode}; run the study again"
    return CellOutcome(cell, "failed", error)


def _stop(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
