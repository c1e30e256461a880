"""Keep arrays and rows in a GPU's memory between graphs of ONNX Runtime.

ONNX Runtime itself gathers and stores the rows, by graphs of one operator each.
"""

from __future__ import annotations

import base64
import logging
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.device_array import DeviceArray, Tensor
from triplex_deploy.runtime.failures import failed_call
from triplex_deploy.runtime.ort_load import free_gpu_bytes, import_onnxruntime, load_session
from triplex_deploy.runtime.row_table import LARGEST_PART, RowTable

logger = logging.getLogger(__name__)

GATHER: Final = (
    "CAk6cwodCgV0YWJsZQoEcm93cxIGdmFsdWVzIgZHYXRoZXISBmdhdGhlcloZCgV0YWJsZRIQCg4IARIKCgMSAW4KAxIB"
    "d1oTCgRyb3dzEgsKCQgHEgUKAxIBYmIaCgZ2YWx1ZXMSEAoOCAESCgoDEgFiCgMSAXdCBAoAEBQ="
)
"""ONNX graph of ``Gather(table, rows) -> values``, as base64; a test writes it again."""
SCATTER: Final = (
    "CAk6oQEKKQoFdGFibGUKBHJvd3MKBnZhbHVlcxIHY2hhbmdlZCIJU2NhdHRlck5EEgdzY2F0dGVyWhkKBXRhYmxlEhAK"
    "DggBEgoKAxIBbgoDEgF3WhcKBHJvd3MSDwoNCAcSCQoDEgFiCgIIAVoaCgZ2YWx1ZXMSEAoOCAESCgoDEgFiCgMSAXdi"
    "GwoHY2hhbmdlZBIQCg4IARIKCgMSAW4KAxIBd0IECgAQFA=="
)
"""ONNX graph of ``ScatterND(table, rows, values) -> changed``, as base64."""


class OrtArray(DeviceArray):
    """An array in GPU memory that ONNX Runtime allocated."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int, value: Any, first: int = 0
    ) -> None:
        """Wrap rows of ``value``, an ``OrtValue``, from row ``first`` on."""
        super().__init__(shape, dtype, pointer)
        self._value = value
        self._first = first

    @classmethod
    def of(cls, value: Any, dtype: str) -> OrtArray:
        """Return the whole of ``value``, an ``OrtValue``."""
        return cls(tuple(value.shape()), np.dtype(dtype), value.data_ptr(), value)

    def numpy(self) -> NDArray[Any]:
        whole: NDArray[Any] = self._value.numpy().reshape(-1, *self.shape[1:])
        return whole[self._first : self._first + len(self)]

    def _view(self, shape: tuple[int, ...], pointer: int) -> OrtArray:
        row_bytes = self.nbytes // max(1, len(self))
        first = self._first + ((pointer - self.pointer) // row_bytes if row_bytes else 0)
        return OrtArray(shape, self.dtype, pointer, self._value, first)


def on_device(array: NDArray[Any], device: Device) -> Any:
    """Return a copy of ``array`` as an ``OrtValue``."""
    if device.kind == "cpu":
        array = array.copy()  # otherwise the value would share the caller's memory
    ort = import_onnxruntime()
    return ort.OrtValue.ortvalue_from_numpy(array, device.kind, device.index)


class OrtRowTable(RowTable):
    """Rows in memory that ONNX Runtime allocated; open it with ``open_ort_table``.

    Each call returns after the GPU has done its work, so that arrays need no events.
    """

    def __init__(self, device: Device, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self._device = device
        self._width = math.prod(shape[1:])
        try:
            self._memory = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type(
                [shape[0], self._width], np.float32, device.kind, device.index
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise failed_call("rows on the GPU", "ONNX Runtime", error) from error
        self._gather, self._scatter = (
            load_session(base64.b64decode(graph), device, threads=1) for graph in (GATHER, SCATTER)
        )

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        self.check_rows(rows)
        if not rows.size:
            return
        binding, shape = self._binding(self._scatter), (len(rows), self._width)
        binding.bind_cpu_input("rows", np.ascontiguousarray(rows[:, None], np.int64))
        if isinstance(values, DeviceArray):
            binding.bind_input(
                "values", self._device.kind, self._device.index, np.float32, shape, values.pointer
            )
        else:
            packed = np.ascontiguousarray(values, np.float32).reshape(shape)
            binding.bind_ortvalue_input("values", on_device(packed, self._device))
        binding.bind_output(  # the table itself: ONNX Runtime then copies no other row
            "changed",
            self._device.kind,
            self._device.index,
            np.float32,
            [self.shape[0], self._width],
            self._memory.data_ptr(),
        )
        self._run(self._scatter, binding)

    def take(self, rows: NDArray[Any], room: int = 0) -> DeviceArray:
        self.check_rows(rows)
        per_call = rows.size // max(1, len(rows))
        n_rows = max(len(rows), room)
        wanted = np.zeros(n_rows * per_call, np.int64)
        wanted[: rows.size] = rows.reshape(-1)
        binding = self._binding(self._gather)
        binding.bind_cpu_input("rows", wanted)
        binding.bind_output("values", self._device.kind, self._device.index)
        self._run(self._gather, binding)
        (value,) = binding.get_outputs()
        whole = (n_rows, *rows.shape[1:], *self.shape[1:])
        return OrtArray(whole, np.dtype(np.float32), value.data_ptr(), value)[: len(rows)]

    def close(self) -> None:
        self._memory = self._gather = self._scatter = None

    def _binding(self, session: Any) -> Any:
        """Return a binding of a session that takes the rows of the table."""
        if session is None:
            raise BackendError("the table of rows is closed; predict again")
        binding = session.io_binding()
        binding.bind_ortvalue_input("table", self._memory)
        return binding

    def _run(self, session: Any, binding: Any) -> None:
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise failed_call("rows on the GPU", "ONNX Runtime", error) from error


def open_ort_table(device: Device, shape: tuple[int, ...]) -> OrtRowTable | None:
    """Return a table of float32, or None if memory is too short or the rows would be wrong.

    Two rows are stored and taken before it is used, as the graphs change memory that is also one of
    their inputs.
    """
    free = free_gpu_bytes(device.index)
    if free is None or math.prod(shape) * np.dtype(np.float32).itemsize > LARGEST_PART * free:
        return None
    try:
        table = OrtRowTable(device, shape)
        if _is_right(table):
            return table
        why = "rows do not come back as they were stored"
    except BackendError as error:
        why = str(error)
    logger.info("rows stay in the memory of the host: %s", why)
    return None


def _is_right(table: OrtRowTable) -> bool:
    rows = np.array([table.shape[0] - 1, 0], np.int64)
    values = np.arange(2 * math.prod(table.shape[1:]), dtype=np.float32)
    values = values.reshape(2, *table.shape[1:])
    for i in (0, 1):  # the second must leave the first as it is
        table.put(rows[i : i + 1], values[i : i + 1])
    wanted = values if rows[0] != rows[1] else values[[1, 1]]
    return np.array_equal(table.take(rows).numpy(), wanted)
