"""Describe the machine of a benchmark: its clock, other work, peak rates, processor and GPUs."""

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

from triplex_deploy.bench.result import Ceilings, Gpu, Machine, Peak
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.cpu_choice import has_fast_bf16
from triplex_deploy.runtime.instructions import instructions_for, known_instructions
from triplex_deploy.runtime.product import PRODUCT_TYPES, compile_product
from triplex_deploy.system import processor_name, usable_cores

PROBE_BYTES: Final = 1 << 20
PROBE_RUNS: Final = 5
STAT: Final = Path("/proc/stat")
IDLE_FIELDS: Final = (3, 4)
"""Positions in a ``cpu`` line of the ticks that are idle and that wait for a disk."""
COUNTED_FIELDS: Final = 8
"""Number of fields up to steal; guest time, which follows, is part of user time."""
MATRIX: Final = 1024
COPY_BYTES: Final = 1 << 26
RUNS: Final = 20
PEAK_RUNS: Final = 6
"""Runs of the products of each precision, which are longer than the others."""
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
"""Packages with versions that decide how fast a prediction is."""
CLEAR_REFS: Final = Path("/proc/self/clear_refs")
"""Linux forgets the peak memory of this process if 5 is written to it."""

_GPU_QUERY: Final = "name,driver_version,memory.total,clocks.sm,clocks.max.sm"
_GPU_TIMEOUT_S: Final = 10


class Clock(Protocol):
    """Measures seconds, and waits."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def probe_speed(clock: Clock) -> float:
    """Return the seconds that hashing 1 MiB takes now on one core, the best of a few runs.

    The work is the same in every benchmark, so two results show if the machine itself was slower.
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
    """Return this moment; None on a system without Linux's ``/proc/stat``."""
    try:
        text = STAT.read_text(encoding="ascii")
        cores, ticks_per_s = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    return Moment(time.perf_counter(), busy_ticks(text, cores) / ticks_per_s, time.process_time())


def busy_ticks(stat: str, cores: Collection[int]) -> int:
    """Return the ticks since boot in which cores were not idle, with time stolen by a host."""
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
    """Return the part of ``cores`` that other work took between two moments, 0 to 1."""
    if begin is None or end is None or end.at_s <= begin.at_s:
        return None
    others_s = (end.busy_s - begin.busy_s) - (end.own_s - begin.own_s)
    return min(1.0, max(0.0, others_s / (cores * (end.at_s - begin.at_s))))


def measure_ceilings(clock: Clock) -> Ceilings:
    """Return the best rates of a CPU: of matrix products by precision, and of a copy."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, MATRIX, MATRIX), np.float32)
    product = np.empty_like(left)
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    matmul_s = _best(lambda: np.matmul(left, right, out=product), clock)
    copy_s = _best(lambda: np.copyto(target, source), clock)
    peaks, absent = measure_peaks(clock)
    return Ceilings(
        flops_per_s=2 * MATRIX**3 / matmul_s,
        bytes_per_s=2 * COPY_BYTES / copy_s,  # read and written
        how=f"NumPy float32 matmul of {MATRIX} x {MATRIX}; copy of {COPY_BYTES >> 20} MiB, "
        "one thread",
        peaks=peaks,
        peaks_absent=absent,
    )


def measure_peaks(clock: Clock) -> tuple[dict[str, Peak], dict[str, str]]:
    """Return the best rate of a product in each precision of a CPU, and why others have none."""
    peaks: dict[str, Peak] = {}
    absent: dict[str, str] = {}
    for precision in PRODUCT_TYPES:
        instructions = instructions_for(precision)
        if precision == "bf16" and not has_fast_bf16():
            absent[precision] = "this CPU does not multiply it in hardware"
            continue
        try:
            product = compile_product(precision)
        except BackendError as error:
            absent[precision] = str(error)
            continue
        peaks[precision] = Peak(
            flops_per_s=product.operations / _best(product.run, clock, PEAK_RUNS),
            instructions=instructions or "unknown",
            how=product.description,
        )
    return peaks, absent


def forget_peak_memory() -> None:
    """Let ``system.peak_memory_mb`` count from now on, if the system can."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5", encoding="ascii")


def _best(call: Callable[[], object], clock: Clock, runs: int = 0) -> float:
    took = []
    for _ in range((runs or RUNS) + 1):  # the first touches the memory
        begin = clock.now()
        call()
        took.append(clock.now() - begin)
    return min(took[1:])


def read_machine() -> Machine:
    """Return what the operating system and the GPU driver report."""
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
        instructions=known_instructions(),
    )


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """Return the GPUs in ``nvidia-smi``'s CSV without header and units.

    Lines with ``[N/A]``, which a driver writes for a clock that it cannot read, are left out.
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
    """Return the mean over the cores at this moment."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(statistics.fmean(clocks), 0) if clocks else None
