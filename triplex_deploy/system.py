"""Facts of this machine: cores, processor, cache folder, installed versions, peak memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openslide-python", "openslide-bin")
"""Packages whose versions can change a prediction or its speed."""


def usable_cores() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's model as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cache_home() -> Path:
    """Where this user's programs keep what they can make again (XDG base directories)."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else Path.home() / ".cache"


def cache_folder() -> Path:
    """Return this package's folder in the user's cache: ``$XDG_CACHE_HOME/triplex-deploy``."""
    return cache_home() / "triplex-deploy"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those of ``packages`` that are installed, by name."""
    found = {package: installed_version(package) for package in packages}
    return {package: number for package, number in found.items() if number is not None}


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it started this process
        lines = status.read_text(encoding="utf-8").splitlines()
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        if peaks:
            return round(peaks[0] * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
