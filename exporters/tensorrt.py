"""Write the graphs of a bundle for TensorRT: standard operators, with the precision in the file.

Engines are built from them on the machine where they run, see ``runtime/tensorrt/engines.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from triplex_deploy.bundle import GraphEntry
from triplex_deploy.contract import Config, graph_specs
from triplex_deploy.contract.precision import (
    PRECISIONS,
    QUANTIZED,
    graph_precision,
)
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.bundle_manifest import graph_entry
from triplex_deploy.exporters.fp8 import to_fp8
from triplex_deploy.exporters.int8 import quantize
from triplex_deploy.exporters.precision import LOW_PRECISIONS, convert_precision
from triplex_deploy.exporters.standard_form import to_standard

logger = logging.getLogger(__name__)

FOLDER: Final = "tensorrt"
"""Folder of the graphs in a bundle."""


def write_tensorrt_graphs(
    folder: Path,
    exact: Mapping[str, Path],
    config: Config,
    precision: str,
    calibration: NDArray[np.uint8] | None = None,
) -> tuple[GraphEntry, ...]:
    """Write the graphs as ``tensorrt/<graph>.onnx``.

    Args:
        folder: Folder of the bundle.
        exact: File of each graph in fp32.
        config: Configuration of the model. int8 and fp8 quantize the graphs in its
            ``quantizable``.
        precision: Precision of the graphs.
        calibration: Tiles (T, 224, 224, 3), for int8 and fp8.

    Returns:
        The entries of the graphs in the manifest.

    Raises:
        ConfigError: int8 or fp8 have no tiles.
        ContractError: A graph holds operators that TensorRT does not have.
    """
    (folder / FOLDER).mkdir()
    entries = []
    for name, spec in graph_specs(config).items():
        own = graph_precision(precision, "tensorrt", name in config.quantizable)
        logger.info("writing %s for TensorRT in %s", name, own)
        out = folder / FOLDER / f"{name}.onnx"
        _write(exact[name], own, calibration, out)
        entries.append(graph_entry(folder, out, spec, own, "tensorrt"))
    return tuple(entries)


def _write(exact: Path, precision: str, calibration: NDArray[np.uint8] | None, out: Path) -> None:
    model: ModelProto = onnx.load(exact)
    to_standard(model)
    if precision in LOW_PRECISIONS:
        model = convert_precision(model, precision)
    out.write_bytes(model.SerializeToString())
    if precision in QUANTIZED:
        if calibration is None:
            raise ConfigError(f"calibration: {precision} needs slides to calibrate on")
        plain = out.rename(out.with_suffix(".fp32.onnx"))
        quantize(plain, calibration, out, "tensorrt")
        plain.unlink()
    if PRECISIONS[precision].onnx_type == "FLOAT8E4M3FN":
        model = onnx.load(out)
        to_fp8(model)
        out.write_bytes(model.SerializeToString())
