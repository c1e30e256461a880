"""What is read of the machine that the process runs on."""

import resource
from pathlib import Path

import pytest

from triplex_deploy import system

CPU_INFO = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse2 avx2 avx_vnni
vmx flags\t: vnmi preemption_timer

processor\t: 1
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse2
"""


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(system, "CPU_INFO", path)
    return path


def test_processor_of_linux(cpu_info: Path) -> None:
    cpu_info.write_text(CPU_INFO, encoding="utf-8")
    assert system.processor_name() == "Some CPU @ 2.00GHz"
    assert system.processor_flags() == {"fpu", "sse2", "avx2", "avx_vnni"}


def test_processor_of_another_system(cpu_info: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert system.processor_name() == "arm"
    assert system.processor_flags() == frozenset()


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert system.cache_folder() == tmp_path / "triplex-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert system.cache_folder() == tmp_path / "home" / ".cache" / "triplex-deploy"


def test_absent_package_has_no_version() -> None:
    assert system.installed_version("no-such-package-xyz") is None
    assert system.installed_versions(("numpy", "no-such-package-xyz")).keys() == {"numpy"}


def test_memory_and_cores_are_positive() -> None:
    assert system.peak_memory_mb() > 1
    assert system.usable_cores() >= 1


def test_free_address_space_is_what_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (resource.RLIM_INFINITY, 0))
    assert system.free_address_space() is None
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1 << 46, 0))
    free = system.free_address_space()
    assert free is not None
    assert (1 << 46) - (1 << 42) < free < 1 << 46
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1, 0))
    assert system.free_address_space() == 0
