"""Rows are read as they were stored, in memory or in an unnamed file."""

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.pipeline import row_store
from triplex_deploy.pipeline.row_store import RowStore


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.parametrize("budget", [1e9, 0])
@pytest.mark.parametrize("half", [False, True])
def test_rows_come_back(budget: float, half: bool) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    with RowStore((6, 2, 3), budget, half) as store:
        store.put(np.array([5, 0, 3, 1]), values)
        taken = store.take(np.array([[3, 5], [1, 1]]))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, values[[[2, 0], [3, 3]]])
    assert store.in_memory == (budget > 0)


def test_half_takes_half_the_room() -> None:
    assert RowStore((10, 49, 8), 0).n_bytes == 15_680
    assert RowStore((10, 49, 8), 0, half=True).n_bytes == 7_840


def test_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with RowStore((100, 100), 0) as store:
        store.put(np.arange(100), np.ones((100, 100), np.float32))
        assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_store, "_reserve", full)
    with pytest.raises(OutputError, match=r"no room for 0.4 GB.*raise --memory-gb"):
        RowStore((1000, 100_000), 0).__enter__()


def test_pages_of_the_file_do_not_stay_resident() -> None:
    """400 MB through a file keep less than twice the 64 MB that may be touched."""
    block = np.ones((500, 20_000), np.float32)  # 40 MB
    with RowStore((5000, 20_000), 0) as store:
        before = _resident_mb()
        for begin in range(0, 5000, 500):
            store.put(np.arange(begin, begin + 500), block)
        assert _resident_mb() - before < 130
        for begin in range(0, 5000, 500):
            assert store.take(np.arange(begin, begin + 500)).sum() == block.size
            assert _resident_mb() - before < 170


def test_several_threads_put_their_own_rows() -> None:
    with RowStore((400, 1000), 0) as store:

        def fill(first: int) -> None:
            for row in range(first, 400, 4):
                store.put(np.array([row]), np.full((1, 1000), row, np.float32))

        threads = [threading.Thread(target=fill, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = store.take(np.arange(400))
    np.testing.assert_array_equal(taken, np.repeat(np.arange(400.0)[:, None], 1000, axis=1))
