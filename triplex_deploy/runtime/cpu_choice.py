"""Choose the backend and the precision of a run on a CPU, by what this machine measures.

The measurement is kept in the user's cache folder. Every choice between backends keeps the
precision that was asked for; only ``auto`` as the precision may change it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from triplex_deploy.contract import TILE_PX, TILES
from triplex_deploy.contract.precision import cpu_flag, precision_of
from triplex_deploy.errors import BackendError
from triplex_deploy.files.measurements import (
    measurement_key,
    read_measurement,
    store_measurement,
)
from triplex_deploy.install import install_command
from triplex_deploy.runtime.backends import (
    AUTO,
    BACKENDS,
    RUN_PRECISIONS,
    Backend,
    OpenOptions,
)
from triplex_deploy.runtime.device import CPU
from triplex_deploy.system import (
    PACKAGES,
    cache_folder,
    installed_versions,
    processor_flags,
    processor_name,
)
from triplex_deploy.version import __version__

if TYPE_CHECKING:
    from triplex_deploy.bundle import Bundle
    from triplex_deploy.runtime.session import Session

BETTER_BY: Final = 1.15
"""How much faster a later candidate must be to be chosen; a smaller gain may be noise."""
_TILES_PER_CALL: Final = 4
ISA_LIMIT: Final = "ONEDNN_MAX_CPU_ISA"
"""Variable that limits the instructions of OpenVINO's kernels."""
_LIMITS_WITHOUT_BF16: Final = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)
"""Values of ``ONEDNN_MAX_CPU_ISA`` that leave bf16 out."""
_ROUNDS: Final = 3

logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """One way to run a bundle on the CPU."""

    backend: str
    """Name of the backend."""
    float_type: str
    """Type of products in layers that are not quantized."""

    def __str__(self) -> str:
        return f"{self.backend} {self.float_type}"


@dataclass(frozen=True)
class RunChoice:
    """How a bundle runs on a device, and why."""

    backend: Backend
    """The backend."""
    precision: str
    """Precision of the run: that of the bundle, or bf16 for an fp32 bundle."""
    float_type: str
    """Type of products in layers that are not quantized."""
    reason: str
    """Why this backend and precision, in one line."""
    tiles_per_s: Mapping[str, float] = field(default_factory=dict)
    """Measured tiles per second of one core, by candidate; empty if nothing was to choose."""
    bf16_gain: float | None = None
    """How many times as fast bf16 encodes an fp32 bundle here; None if not measured or no gain."""


def choose_on_cpu(bundle: Bundle, backend: Backend | None, precision: str | None) -> RunChoice:
    """Return how to run a bundle on this CPU.

    Args:
        bundle: The bundle.
        backend: The backend that was asked for; None takes the fastest that is installed.
        precision: A value of ``RUN_PRECISIONS``. None is the precision of the bundle. ``auto`` is
            the fastest of the precisions that this bundle and this CPU have.

    Raises:
        BackendError: If the bundle, the backend or the CPU does not have the precision.
    """
    if precision not in (None, *RUN_PRECISIONS):
        raise BackendError(f"precision {precision!r}: not known; use {' or '.join(RUN_PRECISIONS)}")
    own = bundle.manifest.precision
    backends = [backend] if backend else _installed(bundle)
    _check(own, precision, backends)
    candidates = [
        Candidate(entry.name, float_type)
        for entry in backends
        for float_type in _float_types(own, precision, entry)
    ]
    candidates.sort(key=lambda candidate: candidate.float_type != "fp32")  # the exact ones first
    offered = _offered(own, precision, backends)
    compared = list(dict.fromkeys([*candidates, *offered]))
    rates = _rates(bundle, compared) if len(candidates) > 1 else {}
    chosen = fastest(candidates, rates)
    name = chosen.float_type if own == "fp32" else own
    return RunChoice(
        BACKENDS[chosen.backend],
        name,
        chosen.float_type,
        reason_of(chosen, rates),
        {str(candidate): rate for candidate, rate in rates.items()},
        _gain(rates, chosen, offered),
    )


def has_fast_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware, and OpenVINO may use that.

    OpenVINO also runs bf16 on a CPU with AVX-512 alone, but slower than fp32. The variable
    ``ONEDNN_MAX_CPU_ISA`` limits the instructions of OpenVINO's kernels.
    """
    limit = os.environ.get(ISA_LIMIT, "").upper()
    return limit not in _LIMITS_WITHOUT_BF16 and cpu_flag("bf16", processor_flags()) is not None


def _installed(bundle: Bundle) -> list[Backend]:
    targets = {entry.target for entry in bundle.manifest.graphs}
    found = [backend for backend in installed_on_cpu() if backend.target in targets]
    return found or [BACKENDS["onnxruntime"]]


def other_backends(bundle: Bundle, choice: RunChoice) -> list[Backend]:
    """Return the other backends that have the precision of a choice on this CPU."""
    own = bundle.manifest.precision
    return [
        backend
        for backend in _installed(bundle)
        if backend.name != choice.backend.name and _float_types(own, choice.precision, backend)
    ]


def installed_on_cpu() -> list[Backend]:
    """Return the installed backends that run on a CPU."""
    on_cpu = [backend for backend in BACKENDS.values() if CPU.kind in backend.devices]
    return [backend for backend in on_cpu if backend.is_installed]


def _float_types(own: str, precision: str | None, backend: Backend) -> tuple[str, ...]:
    """Return the types in which a backend may compute the layers that are not quantized."""
    has_bf16 = "bf16" in backend.float_types and has_fast_bf16()
    if precision_of(own).needs_calibration:
        return ("bf16",) if has_bf16 else ("fp32",)
    if precision == "bf16":
        return ("bf16",) if has_bf16 else ()
    return ("fp32", "bf16") if precision == AUTO and own == "fp32" and has_bf16 else ("fp32",)


def _offered(own: str, precision: str | None, backends: Sequence[Backend]) -> list[Candidate]:
    """Return the ways to run an fp32 bundle in bf16, if the user left the precision open."""
    if precision is not None or own != "fp32" or not has_fast_bf16():
        return []
    return [Candidate(entry.name, "bf16") for entry in backends if "bf16" in entry.float_types]


def _gain(
    rates: Mapping[Candidate, float], chosen: Candidate, offered: Sequence[Candidate]
) -> float | None:
    gains = [rates[candidate] / rates[chosen] for candidate in offered if candidate in rates]
    best = max(gains, default=0.0)
    return round(best, 2) if best > BETTER_BY else None


def _check(own: str, precision: str | None, backends: Sequence[Backend]) -> None:
    """Raise ``BackendError`` unless bundle, backends and CPU have the precision."""
    if precision in (None, AUTO, own):
        return
    if precision != "bf16":
        raise BackendError(
            f"precision {precision}: the bundle is {own}; export another with "
            f"`triplex-deploy export --precision {precision}`, or leave --precision out"
        )
    if own != "fp32":
        raise BackendError(f"precision bf16: it needs an fp32 bundle, this one is {own}")
    require_bf16(backends)


def require_bf16(backends: Sequence[Backend]) -> None:
    """Raise ``BackendError`` unless one of the backends and this CPU have bf16."""
    able = [name for name, backend in BACKENDS.items() if "bf16" in backend.float_types]
    if not any(backend.name in able for backend in backends):
        raise BackendError(
            f"precision bf16: {' and '.join(backend.name for backend in backends)} has none on a "
            f"CPU; pass --backend {able[0]}, after `{install_command('cpu')}`"
        )
    if not has_fast_bf16():
        flags = " or ".join(precision_of("bf16").cpu_flags)
        raise BackendError(
            f"precision bf16: this CPU ({processor_name()}) does not multiply it in hardware "
            f"(it has no {flags}), and would be slower than in fp32; use fp32 or an int8 bundle"
        )


def fastest(candidates: Sequence[Candidate], rates: Mapping[Candidate, float]) -> Candidate:
    """Return the first candidate, or a later one that is ``BETTER_BY`` times as fast."""
    chosen, *later = candidates
    for candidate in later:
        if rates[candidate] > BETTER_BY * rates[chosen]:
            chosen = candidate
    return chosen


def reason_of(chosen: Candidate, rates: Mapping[Candidate, float]) -> str:
    """Return in one line why a candidate was chosen."""
    if not rates:
        return f"{chosen} is the only choice"
    listed = ", ".join(f"{candidate} {rate:.1f}" for candidate, rate in rates.items())
    return f"{chosen}, by the tiles per second of one core: {listed}"


def _rates(bundle: Bundle, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
    return kept_rates({"bundle": bundle.id}, candidates, lambda: _measure(bundle, candidates))


def cpu_conditions() -> dict[str, Any]:
    """Return what of this machine decides how fast and how exactly a CPU computes."""
    return {
        "processor": processor_name(),
        "flags": sorted(processor_flags()),
        "isa_limit": os.environ.get(ISA_LIMIT, ""),
        "versions": {"triplex-deploy": __version__, **installed_versions(PACKAGES)},
    }


def kept_rates(
    identity: Mapping[str, Any],
    candidates: Sequence[Candidate],
    measure: Callable[[], dict[Candidate, float]],
) -> dict[Candidate, float]:
    """Return the stored or measured tiles per second of one core, by candidate.

    Args:
        identity: What tells the measured graph from others.
        candidates: The candidates.
        measure: Measures them; it is called if nothing is stored for these conditions.
    """
    conditions: dict[str, Any] = {
        **identity,
        "candidates": [str(candidate) for candidate in candidates],
        **cpu_conditions(),
    }
    path, key = cache_folder() / "backends.json", measurement_key(conditions)
    stored = read_measurement(path, key) or {}
    found = {candidate: stored.get(str(candidate)) for candidate in candidates}
    usable = {name: rate for name, rate in found.items() if isinstance(rate, float) and rate > 0}
    if len(usable) == len(candidates):
        return usable
    rates = measure()
    store_measurement(path, key, {str(candidate): rate for candidate, rate in rates.items()})
    return rates


def _measure(bundle: Bundle, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
    with ExitStack() as stack:
        sessions = {candidate: _encoder(bundle, candidate, stack) for candidate in candidates}
        return time_sessions(sessions)


def time_sessions(sessions: Mapping[Candidate, Session]) -> dict[Candidate, float]:
    """Return the tiles per second of sessions that take tiles.

    They are timed in turns, so that other work on the machine slows all alike.
    """
    tiles = np.full((_TILES_PER_CALL, TILE_PX, TILE_PX, 3), 200, np.uint8)
    best: dict[Candidate, float] = {}
    for session in sessions.values():
        session.run({TILES.name: tiles})
    for _ in range(_ROUNDS):
        for candidate, session in sessions.items():
            begin = time.perf_counter()
            session.run({TILES.name: tiles})
            took = time.perf_counter() - begin
            best[candidate] = min(took, best.get(candidate, took))
    return {candidate: round(len(tiles) / took, 2) for candidate, took in best.items()}


def _encoder(bundle: Bundle, candidate: Candidate, stack: ExitStack) -> Session:
    """Open a candidate with one thread, and return its first graph that takes tiles."""
    options = OpenOptions(threads=1, float_type=candidate.float_type)
    sessions = BACKENDS[candidate.backend].open(bundle, CPU, options, stack)
    return next(session for session in sessions.values() if session.spec.kind == "per tile")
