"""Describe the machine of a benchmark: its clock, other work, ceilings, processor and GPUs."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

from triplex_deploy.bench.result import Ceilings, Gpu, Machine
from triplex_deploy.system import processor_name, usable_cores

PROBE_BYTES: Final = 1 << 20
PROBE_RUNS: Final = 5
STAT: Final = Path("/proc/stat")
IDLE_FIELDS: Final = (3, 4)
"""Of a ``cpu`` line: idle and waiting for a disk."""
COUNTED_FIELDS: Final = 8
"""Up to steal; guest time, which follows, is part of user time."""
MATRIX: Final = 1024
COPY_BYTES: Final = 1 << 26
RUNS: Final = 20
PACKAGES: Final = (
    "triplex-deploy",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "torch",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "imagecodecs",
)
"""Whose versions decide how fast a prediction is."""

_GPU_QUERY: Final = "name,driver_version,memory.total,clocks.sm,clocks.max.sm"
_GPU_TIMEOUT_S: Final = 10


class Clock(Protocol):
    """Seconds since some moment, and waiting."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def probe_speed(clock: Clock) -> float:
    """Seconds that hashing 1 MiB takes now, the best of a few: how fast one core is at the moment.

    It does the same work in every benchmark, so that two results can tell a slower machine from
    a slower bundle.
    """
    content = bytes(PROBE_BYTES)
    took = []
    for _ in range(PROBE_RUNS):
        begin = clock.now()
        hashlib.sha256(content).digest()
        took.append(clock.now() - begin)
    return min(took)


class Moment(NamedTuple):
    """CPU seconds that all work, and this process alone, have taken by a time."""

    at_s: float
    busy_s: float
    own_s: float


def used_ticks() -> Moment | None:
    """This moment; None where the system does not tell (it is Linux's ``/proc/stat``)."""
    try:
        text = STAT.read_text(encoding="ascii")
        cores, ticks_per_s = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    return Moment(time.perf_counter(), busy_ticks(text, cores) / ticks_per_s, time.process_time())


def busy_ticks(stat: str, cores: Collection[int]) -> int:
    """Ticks since boot in which these cores were not idle, time stolen by a host included."""
    wanted = {f"cpu{core}" for core in cores}
    lines = [line.split() for line in stat.splitlines()]
    counts = [[int(field) for field in line[1:]] for line in lines if line and line[0] in wanted]
    return sum(
        ticks
        for count in counts
        for field, ticks in enumerate(count[:COUNTED_FIELDS])
        if field not in IDLE_FIELDS
    )


def share_of_others(begin: Moment | None, end: Moment | None, cores: int) -> float | None:
    """Part of ``cores`` that other work took between two moments, 0 to 1."""
    if begin is None or end is None or end.at_s <= begin.at_s:
        return None
    others_s = (end.busy_s - begin.busy_s) - (end.own_s - begin.own_s)
    return min(1.0, max(0.0, others_s / (cores * (end.at_s - begin.at_s))))


def measure_ceilings(clock: Clock) -> Ceilings:
    """The best rates of a float32 matrix product and of a copy through NumPy, in this process."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, MATRIX, MATRIX), np.float32)
    product = np.empty_like(left)
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    matmul_s = _best(lambda: np.matmul(left, right, out=product), clock)
    copy_s = _best(lambda: np.copyto(target, source), clock)
    return Ceilings(
        flops_per_s=2 * MATRIX**3 / matmul_s,
        bytes_per_s=2 * COPY_BYTES / copy_s,  # read and written
        how=f"NumPy float32 matmul of {MATRIX} x {MATRIX}; copy of {COPY_BYTES >> 20} MiB, "
        "one thread",
    )


def _best(call: Callable[[], object], clock: Clock) -> float:
    took = []
    for _ in range(RUNS + 1):  # the first touches the memory
        begin = clock.now()
        call()
        took.append(clock.now() - begin)
    return min(took[1:])


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
