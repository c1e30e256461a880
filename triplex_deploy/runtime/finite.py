"""Refuse NaN and infinity among the outputs of a graph, wherever it ran."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device_array import Tensor

Rows = slice | NDArray[np.int64]


def require_finite(
    spec: GraphSpec,
    outputs: Mapping[str, Tensor],
    where: str,
    rows: Rows | None = None,
    remedy: str = "check the bundle with triplex-deploy verify, or use fp32",
) -> None:
    """Raise ``BackendError`` if an output of a graph has a value that is NaN or infinite.

    Outputs on a GPU are looked at there, as a later graph may turn NaN into a number.

    Args:
        spec: The graph.
        outputs: Its outputs by name, each with a tile or spot per row.
        where: Precision and device, such as ``fp32 on cpu``.
        rows: Numbers of the tiles or spots in their slide; None counts from 0.
        remedy: What to do about it.
    """
    for name, output in outputs.items():
        if not isinstance(output, np.ndarray) and output.first_not_finite() is None:
            continue
        values = output if isinstance(output, np.ndarray) else output.numpy()
        finite = np.isfinite(values)
        if finite.all():
            continue
        bad = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
        kind = "tile" if spec.kind == "per tile" else "spot"
        raise BackendError(
            f"{spec.name}: its output {name} has {int((~finite).sum())} values that are NaN or "
            f"infinite, in {where}, for {len(bad)} of {len(values)} {kind}s of a call, the first "
            f"is {kind} {_number(rows, int(bad[0]))}, counted from 0; {remedy}"
        )


def _number(rows: Rows | None, index: int) -> int:
    if rows is None:
        return index
    return int(rows[index]) if isinstance(rows, np.ndarray) else int(rows.start or 0) + index
