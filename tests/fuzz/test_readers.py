"""Damaged files of every reader: an error of ours, or what the file says; never anything else.

``make fuzz MINUTES=20`` tries many more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.children import call_in_child, fork_first_looks, start_first_looks
from tests.fuzz.fuzz import Sample
from tests.fuzz.readers import READERS
from triplex_deploy.errors import DatasetError
from triplex_deploy.files import hdf5_child, hdf5_look
from triplex_deploy.files.hdf5_look import look_first_at_hdf5

pytestmark = [pytest.mark.torch, pytest.mark.lengthy]
EXAMPLES = 5
"""Mutations of each reader; each takes some hundredths of a second."""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Failures by reader, of the same mutations in every run.

    They run in a process of their own: a child of a process with threads, such as this one, may
    wait forever for a lock that a thread held when it was forked.
    """
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    command = [sys.executable, "-m", "tests.fuzz.fuzz", "--rounds", str(EXAMPLES)]
    finished = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True)
    assert path.exists(), finished.stdout + finished.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["mutations"] >= EXAMPLES * len(READERS)
    found: dict[str, list[str]] = {name: [] for name in READERS}
    for failure in content["failures"]:
        found[failure["reader"]].append(str(failure))
    return found


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_or_read_as_it_stands(
    reader: str, failures: dict[str, list[str]]
) -> None:
    assert failures[reader] == []


def crash() -> str:
    import ctypes

    return str(ctypes.string_at(0))


def hang() -> str:
    while True:
        pass


def hoard() -> str:
    return str(len(bytearray(1 << 36)))


def stumble() -> str:
    raise KeyError("a key")


@pytest.mark.parametrize(
    ("function", "kind"),
    [(crash, "signal"), (hang, "hang"), (hoard, "memory"), (stumble, "unexpected")],
)
def test_what_a_child_does_wrong_is_noticed(function: object, kind: str) -> None:
    assert callable(function)
    assert call_in_child(function, max_seconds=1.0).kind == kind


def test_a_sealed_sample_that_reads_differently_is_noticed(tmp_path: Path) -> None:
    reader = READERS["spots: tsv.gz"]
    sample = Sample(reader, tmp_path, tmp_path)
    ended = call_in_child(lambda: "other numbers")
    assert sample.judge("bytes", ended) == "silent"
    assert sample.judge("inside", ended) == "other"


def abort() -> None:
    os.abort()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (abort, r"fails on it \(SIGABRT\)"),
        (hang, "cannot be read within 1 s"),
        (stumble, None),
    ],
)
def test_a_fork_that_looks_first_is_judged_as_a_program_is(
    program: Callable[[], object],
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "table.h5").touch()
    monkeypatch.setattr(hdf5_child, "main", lambda *_: program())
    monkeypatch.setattr(hdf5_look, "BASE_SECONDS", 1.0)
    fork_first_looks()
    try:
        if said is None:
            look_first_at_hdf5(tmp_path / "table.h5", DatasetError)
        else:
            with pytest.raises(DatasetError, match=said):
                look_first_at_hdf5(tmp_path / "table.h5", DatasetError)
    finally:
        start_first_looks()
