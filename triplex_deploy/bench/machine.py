"""The machine a benchmark runs on, as far as it can be read without privileges."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Final

from triplex_deploy.bench.result import Gpu, Machine
from triplex_deploy.system import processor_name, usable_cores

PACKAGES: Final = (
    *("triplex-deploy", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch"),
    *("openslide-python", "openslide-bin", "tifffile", "imagecodecs"),
)
"""Whose versions decide how fast a prediction is."""

_GPU_QUERY: Final = "name,driver_version,memory.total,clocks.sm,clocks.max.sm"
_GPU_TIMEOUT_S: Final = 10


def read_machine() -> Machine:
    """What the operating system and the GPU driver say of themselves."""
    return Machine(
        cpu=processor_name(),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_gb=_memory_gb(),
        clock_mhz=_clock_mhz(),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        gpus=_gpus(),
    )


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """The GPUs in ``nvidia-smi``'s CSV without header and units; lines it cannot say are left out.

    A driver writes ``[N/A]`` where a GPU does not tell a clock.
    """
    found = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and all(re.fullmatch(r"[\d.]+", field) for field in fields[2:]):
            memory, clock, most = (float(field) for field in fields[2:])
            found.append(
                Gpu(
                    name=fields[0],
                    driver=fields[1],
                    memory_mb=memory,
                    sm_clock_mhz=clock,
                    max_sm_clock_mhz=most,
                )
            )
    return tuple(found)


def _gpus() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_GPU_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(finished.stdout)


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _clock_mhz() -> float | None:
    """Mean over the cores at this moment."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(statistics.fmean(clocks), 0) if clocks else None
