"""Find the instructions with which this CPU multiplies, by precision."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from triplex_deploy.contract.precision import PRECISIONS, cpu_flag
from triplex_deploy.system import processor_flags

VECTORS: Final = ("avx512f", "avx2")
"""Flags of the instructions with which a CPU multiplies fp32, fastest first.

A CPU also multiplies int8 with them if it has no instructions for int8.
"""
_BY_VECTORS: Final = ("fp32", "int8")
"""Precisions that are fast with ``VECTORS`` too; bf16 would be slower than fp32."""


def instructions_for(precision: str, flags: Collection[str] | None = None) -> str | None:
    """Return the flag of the fastest instructions that multiply a precision.

    Args:
        precision: A name of ``PRECISIONS``.
        flags: Flags of a processor; None for those of this machine.

    Returns:
        A flag as Linux names it, such as ``avx512_bf16``; None if the CPU has none of them, so that
        the precision is not faster than fp32.
    """
    flags = processor_flags() if flags is None else flags
    vector = next((flag for flag in VECTORS if flag in flags), None)
    return cpu_flag(precision, flags) or (vector if precision in _BY_VECTORS else None)


def known_instructions(flags: Collection[str] | None = None) -> tuple[str, ...]:
    """Return all flags of instructions for matrix products that a processor has.

    Args:
        flags: Flags of a processor; None for those of this machine.
    """
    flags = processor_flags() if flags is None else flags
    special = (flag for entry in PRECISIONS.values() for flag in entry.cpu_flags)
    return tuple(flag for flag in (*VECTORS, *special) if flag in flags)
