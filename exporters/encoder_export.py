"""Write an encoder of timm as one ONNX file that ``prepare --tile-encoder`` takes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from triplex_deploy.contract import TILES, GraphSpec
from triplex_deploy.contract.graphs import tile_encoder_graph
from triplex_deploy.contract.precision import CONVERTED, DEFAULT, precision_of, require_offered
from triplex_deploy.errors import ConfigError, OutputError, ParityError
from triplex_deploy.exporters.encoder_model import (
    Encoder,
    EncoderGraph,
    feature_dim_of,
    import_timm,
    load_encoder,
    plain_attention,
    reference_images,
)
from triplex_deploy.exporters.encoder_presets import EncoderDesign
from triplex_deploy.exporters.encoder_storage import WEIGHT_BITS, store_weights
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.precision import convert_precision
from triplex_deploy.exporters.to_onnx import model_with_stored_weights
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.runtime.gates import GraphParity, compare_graph
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.runtime.tile_model import DESCRIPTION
from triplex_deploy.version import __version__

logger = logging.getLogger(__name__)

TIMED_TILES: Final = 2
"""Tiles of the measured run."""
SIZES: Final = (1, TIMED_TILES, 5)
"""Tiles of each comparison with timm."""
MOST_BYTES: Final = 2**31 - 2**20
"""Most bytes of weights in one file: protobuf's limit of 2 GiB, less the graph itself."""
_AS_STORED: Final = {32: DEFAULT, 16: "fp16", 8: "int8"}
"""Precision that gives the gate of a graph with weights of so many bits."""


@dataclass(frozen=True)
class ExportSettings:
    """How an encoder is written."""

    precision: str = DEFAULT
    """Precision in which the graph computes; fp16 is for GPUs."""
    weight_bits: int | None = None
    """Bits in which the file holds weights; None for 32, and 16 for fp16."""
    force: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        require_offered(self.precision, "onnxruntime")
        if precision_of(self.precision).needs_calibration:
            raise ConfigError(
                f"precision {self.precision!r}: quantizes convolutions; use {DEFAULT} or fp16, or "
                "--weight-bits 8"
            )
        if self.bits not in WEIGHT_BITS:
            raise ConfigError(f"weight bits {self.bits}: use {', '.join(map(str, WEIGHT_BITS))}")
        if self.precision in CONVERTED and self.bits != 16:
            raise ConfigError(f"weight bits {self.bits}: {self.precision} has weights of 16 bits")

    @property
    def bits(self) -> int:
        """Return the bits in which the file holds weights."""
        return self.weight_bits or (16 if self.precision in CONVERTED else WEIGHT_BITS[0])

    @property
    def gate(self) -> str:
        """Return the precision in whose gate the graph must stay."""
        return self.precision if self.precision in CONVERTED else _AS_STORED[self.bits]


@dataclass(frozen=True)
class Cost:
    """What one tile costs."""

    parameters: int
    """Number of weights."""
    gflop: float
    """Floating-point operations of one tile in 10^9; a product with its sum counts twice."""
    tiles_per_s: float
    """Tiles per second here, in PyTorch in fp32, measured on ``TIMED_TILES`` tiles."""


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder with its weights, measured but not yet written."""

    design: EncoderDesign
    """What it is."""
    encoder: Encoder
    """The network in PyTorch."""
    weights: Path
    """The file of its weights."""
    feature_dim: int
    """Width F of the features."""
    cost: Cost
    """What one tile costs."""

    @property
    def spec(self) -> GraphSpec:
        """Return the contract of the graph."""
        return tile_encoder_graph(self.feature_dim)

    def features(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (B, F) of tiles (B, 224, 224, 3), computed by timm in PyTorch."""
        with torch.inference_mode():
            features: NDArray[np.float32] = self.encoder(
                reference_images(tiles, self.design)
            ).numpy()
        return features


@dataclass(frozen=True)
class EncoderFile:
    """A written encoder."""

    path: Path
    """The ONNX file."""
    description: Mapping[str, Any]
    """What the file says of itself."""
    parity: tuple[GraphParity, ...]
    """Its features against timm's, by number of tiles."""
    tiles_per_s: float
    """Tiles per second here, in ONNX Runtime, measured on ``TIMED_TILES`` tiles."""


def open_encoder(design: EncoderDesign, weights: Path) -> OpenEncoder:
    """Load an encoder from a local file and measure what a tile costs.

    Raises:
        BackendError: If timm cannot be imported.
        CheckpointError: If the file cannot be read or is of another architecture.
        ConfigError: If timm does not have the network, or it gives another width than ``design``.
    """
    encoder = load_encoder(design, weights)
    feature_dim = feature_dim_of(encoder, design.input_px)
    if design.feature_dim not in (None, feature_dim):
        raise ConfigError(
            f"{design.name}: gives {feature_dim} features where {design.feature_dim} are known"
        )
    return OpenEncoder(design, encoder, weights, feature_dim, _cost(encoder, design))


def write_encoder(
    opened: OpenEncoder, out: Path, settings: ExportSettings | None = None
) -> EncoderFile:
    """Write an encoder, and compare the file with timm before it appears.

    Args:
        opened: The encoder.
        out: The ONNX file to write.
        settings: How to write it; None for fp32.

    Returns:
        The file and the comparison.

    Raises:
        ConfigError: If the weights do not fit into one file.
        OutputError: If the file exists or cannot be written.
        ParityError: If the file's features differ from timm's by more than the gate.
    """
    settings = settings or ExportSettings()
    require_writable(out, settings.force)
    require_fitting(opened, settings)
    logger.info("tracing %s", opened.design.name)
    model = _traced(opened, settings)
    description = _description(opened, settings)
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
    expected = _expected(opened)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(out) as path:
            path.write_bytes(model.SerializeToString())
            del model
            parity, tiles_per_s = _compared(path, opened, expected, settings.gate)
            _require_parity(opened.design, parity, settings)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    return EncoderFile(out, description, parity, tiles_per_s)


def require_writable(out: Path, force: bool) -> None:
    """Raise ``OutputError`` if the file exists and may not be replaced, or is no ``.onnx`` file."""
    if out.suffix.lower() != ".onnx":
        raise OutputError(f"{out}: prepare knows encoders by their suffix; name it *.onnx")
    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another --out or pass --force")


def require_fitting(opened: OpenEncoder, settings: ExportSettings) -> None:
    """Raise ``ConfigError`` if the weights do not fit into one file."""
    taken = {bits: opened.cost.parameters * bits // 8 for bits in WEIGHT_BITS}
    if taken[settings.bits] <= MOST_BYTES:
        return
    fitting = [str(bits) for bits, needed in taken.items() if needed <= MOST_BYTES]
    raise ConfigError(
        f"{opened.design.name}: weights of {settings.bits} bits take "
        f"{taken[settings.bits] / 1e9:.1f} GB, and an ONNX file holds {MOST_BYTES / 1e9:.1f} GB; "
        + (f"pass --weight-bits {' or '.join(fitting)}" if fitting else "use a smaller network")
    )


def _cost(encoder: Encoder, design: EncoderDesign) -> Cost:
    images = torch.zeros(1, 3, design.input_px, design.input_px)
    with torch.inference_mode():
        # fused attention is not counted, so that its products are computed one by one
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            encoder(images)
        several = images.expand(TIMED_TILES, -1, -1, -1)
        began = time.perf_counter()
        encoder(several)
        took = time.perf_counter() - began
    return Cost(
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        gflop=counter.get_total_flops() / 1e9,
        tiles_per_s=TIMED_TILES / took,
    )


def _traced(opened: OpenEncoder, settings: ExportSettings) -> ModelProto:
    graph = EncoderGraph(opened.encoder, opened.design).eval()
    store = partial(store_weights, bits=settings.bits)
    with plain_attention(opened.encoder):
        model = model_with_stored_weights(graph, opened.spec, store)
    if settings.precision in CONVERTED:
        return convert_precision(model, settings.precision)
    return model


def _description(opened: OpenEncoder, settings: ExportSettings) -> dict[str, Any]:
    """Return what the file says of itself; ``prepare`` reads name, mean, std and mpp."""
    design = asdict(opened.design)
    for unneeded in ("layout", "millions", "sources"):
        del design[unneeded]
    return {
        **design,
        "feature_dim": opened.feature_dim,
        "precision": settings.precision,
        "weight_bits": settings.bits,
        "weights_sha256": sha256_of(opened.weights),
        "versions": {
            "triplex-deploy": __version__,
            "timm": import_timm().__version__,
            "torch": torch.__version__,
        },
    }


def _expected(opened: OpenEncoder) -> list[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Return the tiles of each comparison and timm's features."""
    inputs = [graph_inputs(opened.spec, size) for size in SIZES]
    return [(given, opened.features(given[TILES.name])) for given in inputs]


def _compared(
    path: Path,
    opened: OpenEncoder,
    expected: list[tuple[dict[str, Any], NDArray[np.float32]]],
    gate: str,
) -> tuple[tuple[GraphParity, ...], float]:
    """Return the comparison with timm, and the tiles per second in ONNX Runtime."""
    outputs = []
    rate = 0.0
    with open_ort_session(path, opened.spec) as session:
        for given, wanted in expected:
            began = time.perf_counter()
            (found,) = session.run(given).values()
            if len(wanted) == TIMED_TILES:
                rate = TIMED_TILES / (time.perf_counter() - began)
            outputs.append((found, wanted))
    parity = compare_graph(opened.spec.name, outputs, precision_of(gate).gate)
    return tuple(parity), rate


def _require_parity(
    design: EncoderDesign, parity: tuple[GraphParity, ...], settings: ExportSettings
) -> None:
    worst = max(parity, key=lambda result: result.relative)
    if all(result.passed for result in parity):
        return
    remedy = (
        "report this with the name of the network"
        if settings.gate == DEFAULT
        else f"export with --precision {DEFAULT} and more --weight-bits"
    )
    raise ParityError(
        f"{design.name}: the file's features differ from timm's by {worst.relative:.1e} of their "
        f"range (cosine {worst.cosine:.6f}), beyond the gate of {settings.gate}; {remedy}"
    )
