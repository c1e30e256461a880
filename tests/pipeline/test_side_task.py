"""A side task gives its result or error to the caller, and its thread never outlives the block."""

import threading
import time

import pytest

from triplex_deploy.pipeline.side_task import Check, SideTask, WatchedProgress
from triplex_deploy.progress import Silent, StageClock


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "probe"]


def _until_stopped(check: Check) -> None:
    while True:
        check()
        time.sleep(0.001)


def _fail(_: Check) -> None:
    raise ValueError("of the work")


def test_work_and_caller_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=5)
    with SideTask("probe", lambda _: meeting.wait(), StageClock()) as task:
        own = meeting.wait()
        assert sorted([own, task.result()]) == [0, 1]
    assert not _threads()


def test_end_of_the_block_stops_the_work() -> None:
    with SideTask("probe", _until_stopped, StageClock()):
        pass
    assert not _threads()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_of_the_block_stops_the_work(error: type[BaseException]) -> None:
    with pytest.raises(error), SideTask("probe", _until_stopped, StageClock()):
        raise error
    assert not _threads()


def test_work_that_nobody_waits_for_fails_silently() -> None:
    with SideTask("probe", _fail, StageClock()):
        pass


def test_error_of_the_work_is_raised_by_result_and_by_progress() -> None:
    with SideTask("probe", _fail, StageClock()) as task:
        with pytest.raises(ValueError, match="of the work"):
            task.result()
        progress = WatchedProgress(Silent(), task)
        with pytest.raises(ValueError, match="of the work"):
            progress.advance(1)
        with pytest.raises(ValueError, match="of the work"):
            progress.start("a stage", 1)


def test_error_of_the_work_goes_before_one_of_the_block() -> None:
    """However late it comes, as if the work had been done first."""
    begin = threading.Event()

    def fail_late(check: Check) -> None:
        begin.wait(5)
        _fail(check)

    def fail_first() -> None:
        begin.set()
        raise RuntimeError("of the block")

    with (
        SideTask("probe", fail_late, StageClock()) as task,
        pytest.raises(ValueError, match="of the work"),
        task.error_first(RuntimeError),
    ):
        fail_first()


def test_error_of_the_block_stays_if_the_work_succeeds() -> None:
    with (
        SideTask("probe", lambda _: 1, StageClock()) as task,
        pytest.raises(RuntimeError, match="of the block"),
        task.error_first(RuntimeError),
    ):
        raise RuntimeError("of the block")


def test_cpu_time_of_the_work_is_counted_without_elapsed_time() -> None:
    clock = StageClock()

    def work(_: Check) -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < 0.05:
            pass

    with SideTask("probe", work, clock) as task:
        task.result()
    assert clock.cpu_seconds["probe"] >= 0.05
    assert clock.seconds["probe"] == 0
