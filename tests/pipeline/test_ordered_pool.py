"""The pool keeps order, stays within bounds, and always ends all its threads."""

import threading
import time
from collections.abc import Iterator

import pytest

from triplex_deploy.pipeline.ordered_pool import ITEMS_PER_WORKER, OrderedThreadPool


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("probe-")]


def test_results_come_in_the_order_of_the_items_whatever_each_takes() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0.0)
        return item * item

    with OrderedThreadPool("probe", iter(range(30)), work, workers=4) as pool:
        assert list(pool) == [n * n for n in range(30)]
    assert not _threads()


def test_workers_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=5)
    with OrderedThreadPool("probe", iter(range(3)), lambda _: meeting.wait(), workers=3) as pool:
        assert sorted(pool) == [0, 1, 2]


def test_no_more_items_are_read_than_the_caller_has_room_for() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            read.append(n)
            yield n

    with OrderedThreadPool("probe", items(), lambda n: n, workers=2) as pool:
        results = iter(pool)
        assert next(results) == 0
        time.sleep(0.1)
        assert len(read) <= 2 * ITEMS_PER_WORKER + 1
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

    with OrderedThreadPool("probe", items(), lambda n: n, workers=3) as pool:
        next(iter(pool))
    assert seen == {"probe-0", "closed by probe-0"}


@pytest.mark.parametrize("workers", [1, 3])
def test_error_of_a_worker_reaches_the_caller_and_stops_the_rest(workers: int) -> None:
    def work(n: int) -> int:
        if n == 5:
            raise ValueError("item 5")
        time.sleep(0.01)
        return n

    begin = time.monotonic()
    with (
        pytest.raises(ValueError, match="item 5"),
        OrderedThreadPool("probe", iter(range(10_000)), work, workers) as pool,
    ):
        list(pool)
    assert time.monotonic() - begin < 2
    assert not _threads()


def test_error_of_the_source_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("unreadable")

    with (
        pytest.raises(OSError, match="unreadable"),
        OrderedThreadPool("probe", items(), str) as pool,
    ):
        list(pool)
    assert not _threads()


def test_leaving_early_stops_every_thread() -> None:
    with OrderedThreadPool("probe", iter(range(10**9)), lambda n: n, workers=2) as pool:
        for n in pool:
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
        OrderedThreadPool("probe", iter(range(10**9)), lambda n: n, workers=2),
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
        OrderedThreadPool("probe", iter([0]), lambda _: release.wait(10)),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 1
    assert "still running" in caplog.text
    release.set()


def test_no_items_give_no_results() -> None:
    with OrderedThreadPool("probe", iter(()), str, workers=2) as pool:
        assert list(pool) == []


def test_idle_seconds_are_counted_by_kind_of_thread() -> None:
    def slow() -> Iterator[int]:
        for n in range(3):
            time.sleep(0.05)
            yield n

    with OrderedThreadPool("probe", slow(), lambda n: n) as pool:
        list(pool)
    assert pool.waits["workers"] > 0.1
    assert pool.waits["source"] < 0.05
