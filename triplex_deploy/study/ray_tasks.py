"""Cells as tasks of a Ray cluster, one each.

Every node needs this package, and the prepared data and the output folder under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import ray

from triplex_deploy.study.cells import Cell
from triplex_deploy.study.train_cell import CellOutcome, train_cell

CPUS_PER_TASK: Final = 4
TRIES: Final = 4
"""How often a cell is begun whose node is lost; it goes on where it was."""


def run_on_ray(cells: Sequence[Cell], workers: int | None, is_last: bool) -> Iterator[CellOutcome]:
    """Yield an outcome per cell from the cluster at ``RAY_ADDRESS``, or one started here.

    ``workers`` bounds how many tasks run at a time, None as many as the cluster has room for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level="error")
    try:
        yield from _run(cells, workers or len(cells), is_last)
    finally:
        if ours:
            ray.shutdown()


def _run(cells: Sequence[Cell], at_once: int, is_last: bool) -> Iterator[CellOutcome]:
    waiting, pending = list(reversed(cells)), dict[Any, Cell]()
    while waiting or pending:
        while waiting and len(pending) < at_once:
            cell = waiting.pop()
            pending[_submit(cell, is_last)] = cell
        (reference,), _ = ray.wait(list(pending), num_returns=1)
        cell = pending.pop(reference)
        try:
            outcome = ray.get(reference)
            assert isinstance(outcome, CellOutcome)
            yield outcome
        except ray.exceptions.RayError as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield CellOutcome(cell, "failed", f"{cell.key}: its task was lost ({text})")


def _submit(cell: Cell, is_last: bool) -> Any:
    options = cell.options
    gpus = options.devices if options.accelerator in ("cuda", "gpu") else 0
    cpus = 1 if gpus else min(CPUS_PER_TASK, _most_cpus())
    task = ray.remote(_perform).options(num_cpus=cpus, num_gpus=gpus, max_retries=TRIES)
    return task.remote(cell, is_last, cpus)


def _perform(cell: Cell, is_last: bool, threads: int) -> CellOutcome:
    import torch

    torch.set_num_threads(threads)
    return train_cell(cell, is_last)


def _most_cpus() -> int:
    """Of the largest node."""
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
