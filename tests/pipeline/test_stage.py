"""A stage keeps order, stays within bounds, and ends with all its threads however it ends."""

import threading
import time
from collections.abc import Iterator

import pytest

from triplex_deploy.pipeline.ordered_pool import ITEMS_PER_LANE, Stage


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("probe-")]


def test_results_come_in_the_order_of_the_items_whatever_each_takes() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0.0)
        return item * item

    with Stage("probe", iter(range(30)), work, lanes=4) as stage:
        assert list(stage) == [n * n for n in range(30)]
    assert not _threads()


def test_lanes_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=5)
    with Stage("probe", iter(range(3)), lambda _: meeting.wait(), lanes=3) as stage:
        assert sorted(stage) == [0, 1, 2]


def test_no_more_items_are_read_than_the_caller_has_room_for() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            read.append(n)
            yield n

    with Stage("probe", items(), lambda n: n, lanes=2) as stage:
        results = iter(stage)
        assert next(results) == 0
        time.sleep(0.1)
        assert len(read) <= 2 * ITEMS_PER_LANE + 1
    assert not _threads()


def test_one_thread_alone_reads_and_closes_the_items() -> None:
    seen: set[str] = set()

    def items() -> Iterator[int]:
        try:
            for n in range(50):
                seen.add(threading.current_thread().name)
                yield n
        finally:
            seen.add(f"closed by {threading.current_thread().name}")

    with Stage("probe", items(), lambda n: n, lanes=3) as stage:
        next(iter(stage))
    assert seen == {"probe-0", "closed by probe-0"}


@pytest.mark.parametrize("lanes", [1, 3])
def test_error_of_a_lane_reaches_the_caller_and_stops_the_rest(lanes: int) -> None:
    def work(n: int) -> int:
        if n == 5:
            raise ValueError("item 5")
        time.sleep(0.01)
        return n

    begin = time.monotonic()
    with (
        pytest.raises(ValueError, match="item 5"),
        Stage("probe", iter(range(10_000)), work, lanes) as stage,
    ):
        list(stage)
    assert time.monotonic() - begin < 2
    assert not _threads()


def test_error_of_the_source_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"), Stage("probe", items(), str) as stage:
        list(stage)
    assert not _threads()


def test_leaving_early_stops_every_thread() -> None:
    with Stage("probe", iter(range(10**9)), lambda n: n, lanes=2) as stage:
        for n in stage:
            if n == 10:
                break
    assert not _threads()


def test_ctrl_c_while_threads_are_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def press_at_the_last(thread: threading.Thread) -> None:
        if thread.name == "probe-2":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", press_at_the_last)
    with (
        pytest.raises(KeyboardInterrupt),
        Stage("probe", iter(range(10**9)), lambda n: n, lanes=2),
    ):
        pass
    assert not _threads()


def test_a_call_that_cannot_be_interrupted_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.pipeline.ordered_pool.GRACE_S", 0.05)
    release = threading.Event()
    begin = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        Stage("probe", iter([0]), lambda _: release.wait(10)),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 1
    assert "ends in its own time" in caplog.text
    release.set()


def test_no_items_give_no_results() -> None:
    with Stage("probe", iter(()), str, lanes=2) as stage:
        assert list(stage) == []


def test_idle_seconds_are_counted_by_kind_of_thread() -> None:
    def slow() -> Iterator[int]:
        for n in range(3):
            time.sleep(0.05)
            yield n

    with Stage("probe", slow(), lambda n: n) as stage:
        list(stage)
    assert stage.waits["lanes"] > 0.1
    assert stage.waits["source"] < 0.05
