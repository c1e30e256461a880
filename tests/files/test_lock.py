"""At most one process holds a lock; the lock is free when its process ends."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.files.lock import exclusive_lock, holder

HOLD = """
import sys, time
from pathlib import Path
from triplex_deploy.files.lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_second_holder_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / ".a.lock"
    with exclusive_lock(path) as first:
        assert first
        assert "process" in holder(path)
        with exclusive_lock(path) as second:
            assert not second
    with exclusive_lock(path) as third:
        assert third
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".a.lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with exclusive_lock(path) as held:
            assert not held
        assert f"process {other.pid}" in holder(path)
        other.kill()
    assert path.exists()
    with exclusive_lock(path) as held:
        assert held
    assert not path.exists()


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / ".a.lock", []

    def wait_for_it() -> None:
        with exclusive_lock(path, wait=True) as held:
            order.append(("second", held))

    with exclusive_lock(path):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        time.sleep(0.3)
        order.append(("first", True))
    waiting.join(10)
    assert order == [("first", True), ("second", True)]


def test_many_takers_never_hold_it_together(tmp_path: Path) -> None:
    """Removing the file with the lock must not let two in through different files."""
    path, inside, most = tmp_path / ".a.lock", 0, 0
    guard = threading.Lock()

    def take() -> None:
        nonlocal inside, most
        for _ in range(40):
            with exclusive_lock(path) as held:
                if held:
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.0005)
                    with guard:
                        inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_folder_that_cannot_be_locked_in_is_an_output_error(tmp_path: Path) -> None:
    no_folder = tmp_path / "no" / "x"
    with pytest.raises(OutputError, match="cannot be locked"), exclusive_lock(no_folder):
        pass
