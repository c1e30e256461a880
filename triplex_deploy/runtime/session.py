"""The runner every backend implements, and the check of what goes into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import ContractError

Arrays = dict[str, NDArray[Any]]


class Session(ABC):
    """One graph on one device; close it, or use it as a context manager."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the graph; raises ``ContractError`` if ``inputs`` do not fit its contract."""
        check_inputs(self.spec, inputs)
        return self._run(inputs)

    @abstractmethod
    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_inputs(spec: GraphSpec, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise ``ContractError`` unless names, dtypes, fixed axes and the shared dynamic axis fit."""
    expected = {tensor.name for tensor in spec.inputs}
    if expected != set(inputs):
        raise ContractError(
            f"{spec.name}: got inputs {sorted(inputs)}; it takes {sorted(expected)}"
        )
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        _check_tensor(spec.name, tensor, inputs[tensor.name], sizes)


def _check_tensor(
    graph: str, tensor: TensorSpec, array: NDArray[Any], sizes: dict[str, int]
) -> None:
    where = f"{graph}: {tensor.name}"
    if array.dtype != np.dtype(tensor.dtype):
        raise ContractError(f"{where} has dtype {array.dtype}; convert it to {tensor.dtype}")
    if array.ndim != len(tensor.axes):
        raise ContractError(f"{where} has shape {array.shape}; it takes {tensor.axes}")
    for size, axis in zip(array.shape, tensor.axes, strict=True):
        wanted = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
        if size != wanted or size == 0:
            raise ContractError(
                f"{where} has shape {array.shape}; it takes {tensor.axes}, "
                "at least 1 long and equal over all inputs"
            )
