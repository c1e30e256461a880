"""The runner every backend implements, and the check of what goes into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.device_array import Pending, Tensor, Tensors

Arrays = dict[str, NDArray[Any]]


class DeviceMemoryError(BackendError):
    """The GPU has no memory left for a batch of this size."""


class Session(ABC):
    """One graph on one device; close it, or use it as a context manager."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def run(self, inputs: Tensors) -> Arrays:
        """Run the graph; raises ``ContractError`` if ``inputs`` do not fit its contract."""
        check_inputs(self.spec, inputs)
        return self._run(inputs)

    def run_kept(self, inputs: Tensors) -> dict[str, Any]:
        """Like ``run``, but outputs stay where they are made: ``DeviceArray`` on a GPU."""
        check_inputs(self.spec, inputs)
        return self._run_kept(inputs)

    def upload(self, array: NDArray[Any]) -> Tensor:
        """``array`` where graphs run, for all that take it or its rows; itself on a CPU.

        On a GPU it is a ``DeviceArray``, or still ``array`` if there is no memory for it.
        """
        try:
            return self._upload(np.ascontiguousarray(array))
        except DeviceMemoryError:
            return array

    def submit(self, inputs: Tensors) -> Pending:
        """Start the graph and return at once where the device allows it; outputs as of ``run``.

        Take a result before submitting two more. ``inputs`` may be changed once this returns.
        """
        check_inputs(self.spec, inputs)
        return self._submit(inputs)

    @abstractmethod
    def _run(self, inputs: Tensors) -> Arrays: ...

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        return self._run(inputs)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return array

    def _submit(self, inputs: Tensors) -> Pending:
        outputs = self._run(inputs)
        return Pending(lambda: outputs)

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_inputs(spec: GraphSpec, inputs: Tensors) -> None:
    """Raise ``ContractError`` unless names, dtypes, fixed axes and the shared dynamic axis fit."""
    expected = {tensor.name for tensor in spec.inputs}
    if expected != set(inputs):
        raise ContractError(
            f"{spec.name}: got inputs {sorted(inputs)}; it takes {sorted(expected)}"
        )
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        _check_tensor(spec.name, tensor, inputs[tensor.name], sizes)


def dynamic_length(spec: GraphSpec, inputs: Mapping[str, Tensor]) -> int:
    """How long the dynamic axis of checked ``inputs`` is; it is the first of every tensor."""
    return int(inputs[spec.inputs[0].name].shape[0])


def _check_tensor(graph: str, tensor: TensorSpec, array: Tensor, sizes: dict[str, int]) -> None:
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
