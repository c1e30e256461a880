"""Write the graphs of a bundle for TensorRT: standard operators, with the precision in the file.

Engines are built from them on the machine where they run, see ``runtime/tensorrt/engines.py``.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from triplex_deploy.bundle import GraphEntry
from triplex_deploy.contract import Config, GraphSpec, graph_specs
from triplex_deploy.contract.precision import (
    PRECISIONS,
    QUANTIZED,
    graph_precision,
)
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.bundle_manifest import graph_entry
from triplex_deploy.exporters.cost import largest_tensor
from triplex_deploy.exporters.fp8 import to_fp8
from triplex_deploy.exporters.int8 import quantize
from triplex_deploy.exporters.options import TensorrtOptions
from triplex_deploy.exporters.precision import LOW_PRECISIONS, convert_precision
from triplex_deploy.exporters.standard_form import to_standard
from triplex_deploy.runtime.tensorrt.build import EngineSettings
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange

logger = logging.getLogger(__name__)

FOLDER: Final = "tensorrt"
"""Folder of the graphs in a bundle."""
MOST_ELEMENTS: Final = 2**31 - 1
"""Most elements of a tensor in TensorRT."""


def write_tensorrt_graphs(
    folder: Path,
    exact: Mapping[str, Path],
    config: Config,
    precision: str,
    calibration: NDArray[np.uint8] | None = None,
    longest: Mapping[str, int] | None = None,
) -> tuple[GraphEntry, ...]:
    """Write the graphs as ``tensorrt/<graph>.onnx``.

    Args:
        folder: Folder of the bundle.
        exact: File of each graph in fp32.
        config: Configuration of the model. int8 and fp8 quantize the graphs in its
            ``quantizable``.
        precision: Precision of the graphs.
        calibration: Tiles (T, 224, 224, 3), for int8 and fp8.
        longest: Most rows of each graph, by name. A graph of many spots computes its attention in
            blocks of queries. None for no blocks.

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
        _write(exact[name], own, calibration, out, (longest or {}).get(name, 1))
        entries.append(graph_entry(folder, out, spec, own, "tensorrt"))
    return tuple(entries)


def fit_profiles(
    folder: Path,
    entries: Sequence[GraphEntry],
    specs: Mapping[str, GraphSpec],
    options: TensorrtOptions,
) -> EngineSettings:
    """Return the settings of the engines, with profiles at which no tensor is too large.

    TensorRT usually fuses attention and stores no scores. It may store them, and then they are the
    largest tensor of the global encoder. Default profiles are shortened to what fits.

    Args:
        folder: The bundle's folder.
        entries: The graphs for TensorRT in it.
        specs: The contract of each graph.
        options: The options of the engines.

    Raises:
        ConfigError: A profile of the options is not suitable, or does not fit; the message has one
            that does.
    """
    settings = options.settings(specs)
    asked = {text.partition("=")[0].strip() for text in options.profiles}
    fitted = {}
    for entry in entries:
        path, axis = folder / entry.file, specs[entry.name].batch_axis
        profile = settings.profile(entry.name)
        largest = largest_tensor(path, {axis: profile.max})
        if largest.elements > MOST_ELEMENTS:
            most = _longest(path, axis, profile.max, largest.elements)
            shorter = ProfileRange(min(profile.min, most), min(profile.opt, most), most)
            if asked & {entry.name, axis}:
                raise ConfigError(
                    f"profile {axis}={profile}: at {profile.max} {axis} a tensor of {entry.name} "
                    f"has {largest.elements / 1e9:.1f} billion elements, and TensorRT takes 2.1 "
                    f"billion; use --profile {axis}={shorter}, and --backend onnxruntime for more"
                )
            logger.info("%s: its engine takes up to %d %s", entry.name, most, axis)
            profile, largest = shorter, largest_tensor(path, {axis: most})
        fitted[entry.name] = profile.lengths
        logger.info(
            "%s: its largest tensor at %d %s takes %.1f GB, if TensorRT does not fuse operators",
            entry.name,
            profile.max,
            axis,
            largest.n_bytes / 1e9,
        )
    return settings.model_copy(update={"profiles": fitted})


def _longest(path: Path, axis: str, too_long: int, elements: int) -> int:
    """Return the greatest length of an axis at which every tensor of a file is small enough.

    ``elements`` is the size of the largest tensor at the length ``too_long``.
    """

    def fits(length: int) -> bool:
        return largest_tensor(path, {axis: length}).elements <= MOST_ELEMENTS

    guess = max(1, int(too_long * math.sqrt(MOST_ELEMENTS / elements)))  # of attention's scores
    if fits(guess) and not fits(guess + 1):
        return guess
    return max(1, bisect_left(range(too_long), True, key=lambda length: not fits(length + 1)))


def _write(
    exact: Path,
    precision: str,
    calibration: NDArray[np.uint8] | None,
    out: Path,
    longest: int,
) -> None:
    model: ModelProto = onnx.load(exact)
    to_standard(model, longest)
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
