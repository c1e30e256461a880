"""Compile matrix products of one precision for the CPU, to measure how fast it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.openvino import HINTS, import_openvino
from triplex_deploy.system import usable_cores

PRODUCT_TYPES: Final = (*HINTS, "int8")
"""Precisions of the products that can be compiled."""
_ROWS: Final = 1024
_WIDTH: Final = 1024
_CHAINED: Final = 4
"""Products in a row, so that converting the input and the output of the chain costs little."""
_LEVELS: Final = 256


@dataclass(frozen=True)
class CompiledProduct:
    """A chain of matrix products that is ready to run."""

    run: Callable[[], object]
    """Run the chain once."""
    operations: int
    """Operations of one run; a multiplication and its addition are two."""
    description: str
    """What is multiplied, in which runtime."""


def compile_product(precision: str) -> CompiledProduct:
    """Return products of made-up matrices that run in one precision on all usable cores.

    They are convolutions of 1 x 1, which are matrix products: the encoders consist of convolutions,
    and OpenVINO has kernels for them on every instruction set.

    Args:
        precision: One of ``PRODUCT_TYPES``. int8 multiplies bytes with 8-bit weights.

    Raises:
        BackendError: OpenVINO is not installed, or cannot compile the products.
    """
    openvino = import_openvino()
    is_int8 = precision not in HINTS
    options = {
        "INFERENCE_PRECISION_HINT": HINTS.get(precision, HINTS["fp32"]),
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    side = int(_ROWS**0.5)
    tensor = np.random.default_rng(0).random((1, _WIDTH, side, side), np.float32)
    try:
        model = _chain(openvino, tensor.shape, is_int8)
        compiled = openvino.Core().compile_model(model, "CPU", options)
        request = compiled.create_infer_request()
    except Exception as error:  # OpenVINO's plugins raise more than RuntimeError
        raise BackendError(
            f"{precision}: OpenVINO cannot compile a matrix product ({error}); "
            "compare `triplex-deploy doctor` with the versions that the package needs"
        ) from error
    return CompiledProduct(
        run=lambda: request.infer([tensor], share_inputs=True, share_outputs=True),
        operations=2 * _CHAINED * _ROWS * _WIDTH**2,
        description=f"{_CHAINED} matrix products of {_ROWS} x {_WIDTH} x {_WIDTH} in a row, "
        f"{usable_cores()} threads, OpenVINO {openvino.__version__.partition('-')[0]}"
        f"{_kernel(compiled)}",
    )


def _kernel(compiled: Any) -> str:
    """Return the kernel that OpenVINO reports for the products, which names its instructions."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Convolution":
            return f", {info['primitiveType'].astype(str)}"
    return ""


def _chain(openvino: Any, shape: tuple[int, ...], is_int8: bool) -> Any:
    ops = openvino.opset13
    rng = np.random.default_rng(1)
    given = ops.parameter(shape, np.float32)
    found = given
    for _ in range(_CHAINED):
        if is_int8:
            found = ops.fake_quantize(found, *_range_of(ops), _LEVELS)
        weights = _weights(ops, rng, is_int8)
        found = ops.convolution(found, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    return openvino.Model([found], [given], "product")


def _range_of(ops: Any) -> list[Any]:
    """Return the ends of the range that bytes stand for: input low and high, output the same."""
    low, high = (ops.constant(np.float32(value)) for value in (0.0, 1.0))
    return [low, high, low, high]


def _weights(ops: Any, rng: np.random.Generator, is_int8: bool) -> Any:
    """Return weights (out, in, 1, 1) that keep the values of the chain near 1."""
    shape = (_WIDTH, _WIDTH, 1, 1)
    if not is_int8:
        return ops.constant(rng.random(shape, np.float32) * np.float32(2 / _WIDTH))
    steps = ops.constant(rng.integers(0, 127, shape, np.int8))
    scale = ops.constant(np.full((_WIDTH, 1, 1, 1), 1 / 64 / _WIDTH, np.float32))
    return ops.multiply(ops.convert(steps, "f32"), scale)
