"""Errors as one line, and narrow limits of the process named where they may be the reason."""

from __future__ import annotations

import errno
import resource

import pytest

from triplex_deploy.errors import BackendError, SlideError, narrow_limits, one_line

NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: (600 << 20, -1), resource.RLIMIT_NPROC: (7, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: NO_LIMIT)


@pytest.mark.usefixtures("limited")
def test_narrow_limits_are_named() -> None:
    limits = (
        "this process is limited to 600 MB of address space (`ulimit -v`) and 7 processes "
        "(`ulimit -u`): raise the limit"
    )
    assert narrow_limits() == limits
    assert one_line(BackendError("x.onnx: cannot be loaded; try\nthat")).endswith(f"that; {limits}")
    assert one_line(SlideError("x.svs: damaged; copy it")) == "x.svs: damaged; copy it"
    line = one_line(ImportError("libx.so: failed to map segment from shared object"))
    assert line.endswith(limits)
    assert "unexpected" not in line


@pytest.mark.usefixtures("unlimited")
def test_without_limits_nothing_is_added() -> None:
    assert narrow_limits() == ""
    assert one_line(BackendError("x.onnx: no")) == "x.onnx: no"
    assert one_line(KeyError("x")).startswith("unexpected KeyError")
    assert one_line(ImportError("no module y")).startswith("unexpected ImportError")


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        OSError("libx.so: Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_or_threads_is_no_bug(error: Exception) -> None:
    line = one_line(error)
    assert "unexpected" not in line
    assert "memory" in line or "threads" in line


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b\nc"),
            "/a/b c: Permission denied; check the path and its permissions",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", b"/a/b"),
            "/a/b: No space left on device; free some space, or use another disk",
        ),
        (
            OSError(errno.EMFILE, "Too many open files", 7),
            "[Errno 24] Too many open files: 7; raise the limit of open files (`ulimit -n`)",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            "[Errno 5] Input/output error; check the disk, or use another one",
        ),
    ],
)
def test_what_the_system_says_of_a_file_is_no_bug(error: OSError, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.usefixtures("unlimited")
def test_a_file_that_should_be_there_is_a_bug() -> None:
    assert one_line(FileNotFoundError(errno.ENOENT, "No such file", "/a")).startswith("unexpected")
