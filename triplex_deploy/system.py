"""Describe this machine: cores, processor, cache folder, installed versions, peak memory."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "openslide-python",
    "openslide-bin",
)
"""Packages with versions that can change a prediction or its speed."""
CPU_INFO: Final = Path("/proc/cpuinfo")
"""The file in which Linux describes each core of the processor."""


def seconds_since_start() -> float:
    """Return the seconds since this process began, to 0.01 s; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = float(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc(5): starttime
        return max(float(Path("/proc/uptime").read_text().split()[0]) - began, 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0


def usable_cores() -> int:
    """Return the number of cores that this process may use; the machine can have more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return the processor's model as the system names it."""
    return _cpu_info("model name") or platform.processor()


def processor_flags() -> frozenset[str]:
    """Return the instruction sets of an x86 processor as Linux names them, such as ``avx2``.

    The set is empty on another processor and on another system.
    """
    return frozenset(_cpu_info("flags").split())


def cache_home() -> Path:
    """Return the folder in which this user's programs keep files that they can make again.

    Source: the XDG base directory specification.
    """
    return _user_folder("XDG_CACHE_HOME", ".cache", "cache")


def cache_folder() -> Path:
    """Return this package's folder in the user's cache: ``$XDG_CACHE_HOME/triplex-deploy``."""
    return cache_home() / "triplex-deploy"


def state_folder() -> Path:
    """Return this package's folder of what must stay: ``$XDG_STATE_HOME/triplex-deploy``.

    Without the variable it is below ``~/.local/state``, as the same specification says.
    """
    return _user_folder("XDG_STATE_HOME", ".local/state", "state") / "triplex-deploy"


def _user_folder(variable: str, below_home: str, name: str) -> Path:
    folder = os.environ.get(variable)
    if folder:
        return Path(folder)
    try:
        return Path.home() / below_home
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return Path(tempfile.gettempdir()) / f"{name}-of-user-{os.getuid()}"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those of ``packages`` that are installed, by name."""
    found = {package: installed_version(package) for package in packages}
    return {package: number for package, number in found.items() if number is not None}


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts memory of the parent from before the fork
        lines = status.read_text(encoding="utf-8").splitlines()
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        if peaks:
            return round(peaks[0] * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def free_address_space() -> int | None:
    """Return the bytes that this process may still map; None without a limit (``ulimit -v``)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit < 0:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        pages = 0
    return max(limit - pages * resource.getpagesize(), 0)


def return_freed_memory() -> None:
    """Return memory that was freed, but is kept for later use, to the system.

    It does nothing on a system without the GNU C library.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cpu_info(key: str) -> str:
    """Return what Linux writes of the first core under ``key``, empty if there is nothing."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(values, "")
