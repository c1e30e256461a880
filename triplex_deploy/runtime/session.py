"""Define the interface of all backends, and check what goes into a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.row_table import RowTable

Arrays = dict[str, NDArray[Any]]
"""Arrays in the CPU's memory, by tensor name."""


class DeviceMemoryError(BackendError):
    """The GPU has too little free memory for a batch of this size."""


class LostDeviceError(BackendError):
    """The GPU's context is lost: no call of this process can use the GPU any more."""


class Buffers(Protocol):
    """Lends arrays of one shape; a loan ends when the borrower drops the array and its views."""

    def take(self, length: int) -> NDArray[np.uint8]:
        """Return an array with ``length`` rows of undefined content, from any thread."""


class Session(ABC):
    """One graph on one device. Close it, or use it as a context manager.

    A backend implements ``_run`` and ``close``. If it keeps arrays on a GPU, it also implements
    ``_submit``, ``_run_kept`` and ``_upload``.
    """

    takes_turns: bool = True
    """Whether several threads that use this GPU must call its sessions one at a time."""
    most_rows: int | None = None
    """Most rows of a call that the runtime takes at once, None if it sets no limit."""
    longest: int | None = None
    """Most spots of a slide that a graph of whole slides takes, None if there is no limit."""
    runs_in_caller: bool = True
    """Whether the thread that calls ``run`` does the work, and its clock counts the CPU time."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def prepare(self) -> None:  # noqa: B027 - most runtimes load a graph when it is opened
        """Do what the first call would do before it computes, such as compiling the graph.

        Raises:
            BackendError: The runtime cannot load the graph; a call raises the same error.
        """

    def own_cpu_s(self) -> float:
        """Return the CPU seconds so far of threads that compute for this session alone.

        They are no part of the caller's. Returns 0 for a runtime that computes in the caller's
        thread, and where the system does not tell.
        """
        return 0.0

    def run(self, inputs: Tensors) -> Arrays:
        """Run the graph.

        Args:
            inputs: Tensors by name, in the CPU's memory or on the session's GPU.

        Returns:
            The outputs by name, in the CPU's memory.

        Raises:
            ContractError: If ``inputs`` do not fit the graph's contract.
            BackendError: If the runtime fails, for example because memory is full.
        """
        check_inputs(self.spec, inputs)
        return self._run(inputs)

    def submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        """Start the graph, and return a function that waits for the outputs and returns them.

        Another thread may start its call meanwhile. Takes the inputs of ``run``; its errors are
        raised here or by the function.
        """
        check_inputs(self.spec, inputs)
        return self._submit(inputs)

    def run_kept(self, inputs: Tensors) -> dict[str, Any]:
        """Run the graph as ``run`` does, and leave the outputs where they were computed.

        Returns:
            The outputs by name: each a ``DeviceArray`` if the session runs on a GPU, otherwise an
            array.
        """
        check_inputs(self.spec, inputs)
        return self._run_kept(inputs)

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Copy ``array`` to the session's device once, for every graph that takes it or its rows.

        Returns:
            A ``DeviceArray`` if the session runs on a GPU with enough free memory, otherwise
            ``array``.
        """
        try:
            return self._upload(np.ascontiguousarray(array))
        except DeviceMemoryError:
            return array

    def lend_buffers(self, shape: tuple[int, ...]) -> Buffers | None:
        """Return memory for arrays of ``shape``, uint8, that ``upload`` need not copy on the host.

        Returns None if the session has no GPU, or its runtime no such memory.
        """
        return None

    def open_table(self, shape: tuple[int, ...]) -> RowTable | None:
        """Return memory of the session's GPU for rows that graphs write and take there.

        Args:
            shape: Number of rows, and the shape of a row.

        Returns:
            The table; None if the session runs on the CPU, if its runtime has none, or if the GPU
            is short of memory.
        """
        return None

    @abstractmethod
    def _run(self, inputs: Tensors) -> Arrays: ...

    def _submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        outputs = self._run(inputs)
        return lambda: outputs

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        return self._run(inputs)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return array

    @abstractmethod
    def close(self) -> None:
        """Free what the session holds; running it afterwards raises ``BackendError``."""

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
    """Return the length of the dynamic axis of checked ``inputs``, the first of every tensor."""
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
