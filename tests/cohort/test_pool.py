"""Jobs are shared among workers that start, work, die or fail to start."""

from collections import deque
from pathlib import Path

import pytest

from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import Broken, Died, Event, Finished, PoolExecutor, Ready
from triplex_deploy.errors import BackendError
from triplex_deploy.pipeline.options import PredictOptions


class ScriptedWorkers:
    """Workers whose deaths are given: for each slide in ``fate``, how often its worker dies."""

    def __init__(self, limit: int, fate: dict[str, int] | None = None, stillborn: int = 0) -> None:
        self.limit, self.max_attempts = limit, 2
        self.fate, self.stillborn = dict(fate or {}), stillborn
        self.begun: list[tuple[int, str]] = []
        self.started, self.stopped = 0, False
        self._events: deque[Event[Outcome]] = deque()

    def connect(self) -> None: ...

    def start(self) -> int:
        self.started += 1
        born = self.started > self.stillborn
        self._events.append(Ready(self.started) if born else Died(self.started, "crashed"))
        return self.started

    def submit(self, worker: int, job: Job) -> None:
        self.begun.append((worker, job.slide.name))
        if self.fate.get(job.slide.name, 0):
            self.fate[job.slide.name] -= 1
            self._events.append(Died(worker, "was killed"))
        else:
            self._events.append(Finished(worker, Outcome(job, "done", 1.0, {"spots": 1})))

    def next_event(self) -> Event[Outcome]:
        return self._events.popleft()

    def stop(self) -> None:
        self.stopped = True


def _failed(job: Job, reason: str) -> Outcome:
    return Outcome(job, "failed", 0.0, error=reason)


def _jobs(*names: str) -> list[Job]:
    return [Job(Path(name), Path(f"{name}.h5ad"), PredictOptions()) for name in names]


def _run(workers: ScriptedWorkers, jobs: list[Job]) -> dict[str, Outcome]:
    with PoolExecutor(workers, _failed) as executor:
        outcomes = list(executor.run(jobs))
    assert workers.stopped
    assert len(outcomes) == len(jobs), "one outcome for each job"
    return {outcome.job.slide.name: outcome for outcome in outcomes}


def test_all_jobs_are_done_by_no_more_workers_than_allowed() -> None:
    workers = ScriptedWorkers(limit=2)
    outcomes = _run(workers, _jobs(*"abcde"))
    assert [outcomes[name].status for name in "abcde"] == ["done"] * 5
    assert workers.started == 2
    assert sorted(name for _, name in workers.begun) == list("abcde")


def test_no_more_workers_are_started_than_there_are_jobs() -> None:
    workers = ScriptedWorkers(limit=8)
    _run(workers, _jobs("a", "b"))
    assert workers.started == 2


def test_slide_of_a_dead_worker_is_tried_again_by_a_new_one() -> None:
    workers = ScriptedWorkers(limit=1, fate={"b": 1})
    outcomes = _run(workers, _jobs(*"abc"))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert [name for _, name in workers.begun].count("b") == 2
    assert workers.started == 2


def test_slide_that_kills_every_worker_fails_and_the_others_go_on() -> None:
    workers = ScriptedWorkers(limit=2, fate={"b": 99})
    outcomes = _run(workers, _jobs(*"abc"))
    assert [outcomes[name].status for name in "abc"] == ["done", "failed", "done"]
    assert "was killed; given up after 2 attempts" in (outcomes["b"].error or "")


def test_worker_that_dies_while_it_opens_the_bundle_is_not_replaced_without_end() -> None:
    outcomes = _run(ScriptedWorkers(limit=2, stillborn=1), _jobs("a", "b"))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    outcomes = _run(ScriptedWorkers(limit=2, stillborn=99), _jobs("a", "b"))
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    assert "no worker is left" in (outcomes["a"].error or "")


def test_bundle_that_cannot_be_opened_is_raised_and_workers_are_stopped() -> None:
    workers = ScriptedWorkers(limit=1)
    workers.next_event = lambda: Broken(BackendError("no such device"))  # type: ignore[method-assign]
    with (
        pytest.raises(BackendError, match="no such device"),
        PoolExecutor(workers, _failed) as executor,
    ):
        list(executor.run(_jobs("a")))
    assert workers.stopped


def test_workers_stay_for_a_second_round() -> None:
    workers = ScriptedWorkers(limit=2)
    with PoolExecutor(workers, _failed) as executor:
        assert len(list(executor.run(_jobs("a", "b")))) == 2
        assert len(list(executor.run(_jobs("c")))) == 1
    assert workers.started == 2
