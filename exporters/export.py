"""Checkpoint in, bundle out: trace, write, prove parity, and only then put the bundle in place."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.foreign_tile_encoder import open_foreign, write_foreign
from exporters.int8 import CONVNETS, quantise, split_calibration
from exporters.model_card import model_card
from exporters.parity import ParityReport, measure_parity, store_parity_inputs
from exporters.reference import Reference, torch_tile_encoder
from exporters.to_onnx import OPSET, write_onnx
from exporters.wrappers import graph_modules
from triplex_deploy import __version__
from triplex_deploy.bundle import (
    MANIFEST,
    MODEL_CARD,
    PARITY,
    PARITY_INPUTS,
    SCHEMA_VERSION,
    Bundle,
    GraphEntry,
    Manifest,
    read_bundle,
    sha256_of,
    tensor_entries,
)
from triplex_deploy.contract import (
    IMAGE_MEAN,
    IMAGE_STD,
    NEIGHBORHOOD,
    TILE_PX,
    GraphSpec,
    graph_specs,
)
from triplex_deploy.errors import ConfigError, OutputError, ParityError
from triplex_deploy.models import Checkpoint, read_checkpoint
from triplex_deploy.models.tile_encoder_weights import ONNX
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.runtime.session import Session

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """What a caller may choose about one export.

    ``precision`` int8 quantises the two image encoders and needs ``calibration``, tiles
    (T, 224, 224, 3) uint8 of slides like those to be predicted. ``force`` replaces an existing
    bundle; ``allow_parity_failure`` keeps one that missed its gate, marked as such.
    """

    precision: str = "fp32"
    calibration: NDArray[np.uint8] | None = None
    force: bool = False
    allow_parity_failure: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r}: use {' or '.join(PRECISIONS)}")
        if (self.precision == "int8") != (self.calibration is not None):
            raise ConfigError("calibration: int8 needs slides to calibrate on, fp32 takes none")


def export_bundle(
    checkpoint_path: str | Path, out: str | Path, options: ExportOptions | None = None
) -> tuple[Bundle, ParityReport]:
    """Export a checkpoint for ONNX Runtime.

    The bundle appears at ``out`` whole or not at all. Raises ``CheckpointError`` for the
    checkpoint, ``OutputError`` for ``out`` and ``ParityError`` for a missed gate.
    """
    options = options or ExportOptions()
    target = Path(out).absolute()
    _require_free(target, options.force)
    checkpoint = read_checkpoint(checkpoint_path)
    with _staging(target) as stage:
        report = _fill(stage, checkpoint, Path(checkpoint_path), options)
        if not report.passed and not options.allow_parity_failure:
            raise ParityError(
                f"{checkpoint_path}: the exported graphs miss the {report.precision} gate "
                f"({'; '.join(report.failures())}); report this, or pass --allow-parity-failure"
            )
        read_bundle(stage)
        _require_free(target, options.force)
        _replace(stage, target)
    return read_bundle(target), report


def _require_free(target: Path, force: bool) -> None:
    """Refuse to replace anything but a bundle, and a bundle only by ``force``."""
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise OutputError(f"{target}: exists already; choose another --out or pass --force")
    if target.is_symlink() or not (target / MANIFEST).is_file():
        raise OutputError(f"{target}: is no bundle, --force would lose it; choose another --out")


def _fill(
    stage: Path, checkpoint: Checkpoint, checkpoint_path: Path, options: ExportOptions
) -> ParityReport:
    """Write all of the bundle's files into ``stage``."""
    specs = graph_specs(checkpoint.config)
    reference, opsets = _write_graphs(stage, checkpoint, specs)
    held_out = None
    if options.calibration is not None:
        held_out = _quantise_convnets(stage, specs, options.calibration)
    entries = tuple(
        _entry(stage / f"{name}.onnx", spec, options, opsets[name]) for name, spec in specs.items()
    )
    precisions = {entry.name: entry.precision for entry in entries}
    with _sessions(stage, entries, specs) as sessions:
        logger.info("comparing %d graphs with PyTorch", len(sessions))
        report = measure_parity(reference, sessions, precisions, options.precision, held_out)
    (stage / PARITY).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    store_parity_inputs(stage / PARITY_INPUTS, specs, reference)
    (stage / MODEL_CARD).write_text(model_card(checkpoint, report), encoding="utf-8")
    manifest = _manifest(stage, checkpoint, checkpoint_path, entries, report)
    (stage / MANIFEST).write_text(manifest.sealed().to_json(), encoding="utf-8")
    return report


def _write_graphs(
    stage: Path, checkpoint: Checkpoint, specs: Mapping[str, GraphSpec]
) -> tuple[Reference, dict[str, int]]:
    """Write every graph; returns what they must compute, and the opset of each."""
    model, encoder = checkpoint.build_model(), checkpoint.tile_encoder
    ours = None if encoder.kind == ONNX else encoder.build()
    encode_tiles = open_foreign(encoder).encode if ours is None else torch_tile_encoder(ours)
    modules, opsets = graph_modules(model, ours), dict.fromkeys(specs, OPSET)
    for name, spec in specs.items():
        logger.info("exporting %s", name)
        path, metadata = stage / f"{name}.onnx", _metadata(checkpoint, spec)
        if name in modules:
            write_onnx(modules[name], spec, "onnxruntime", metadata, path)
        else:
            opsets[name] = write_foreign(encoder, spec, metadata, path)
    return Reference(model, encode_tiles), opsets


def _quantise_convnets(
    stage: Path, specs: Mapping[str, GraphSpec], tiles: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Replace the image encoders by their int8 form; returns the tiles kept from calibration."""
    calibration, held_out = split_calibration(tiles)
    for name in (name for name in CONVNETS if name in specs):
        logger.info("quantising %s on %d tiles", name, len(calibration))
        path = stage / f"{name}.onnx"
        exact = path.rename(stage / f"{name}.fp32.onnx")
        quantise(exact, calibration, path)
        exact.unlink()
    return held_out


def _entry(path: Path, spec: GraphSpec, options: ExportOptions, opset: int) -> GraphEntry:
    inputs, outputs = tensor_entries(spec)
    return GraphEntry(
        name=spec.name,
        file=path.name,
        sha256=sha256_of(path),
        precision=options.precision if spec.name in CONVNETS else "fp32",
        opset=opset,
        target="onnxruntime",
        inputs=inputs,
        outputs=outputs,
    )


def _metadata(checkpoint: Checkpoint, spec: GraphSpec) -> dict[str, str]:
    """What travels inside each ONNX file, so that a file alone still says what it is."""
    return {
        "triplex.graph": spec.name,
        "triplex.config": json.dumps(checkpoint.config.to_dict()),
        "triplex.genes": json.dumps(checkpoint.genes),
        "triplex.label_transform": json.dumps(checkpoint.label_transform),
        "triplex.tile": json.dumps({"px": TILE_PX, "mpp": checkpoint.tile_mpp}),
        "triplex.normalisation": json.dumps({"mean": IMAGE_MEAN, "std": IMAGE_STD}),
        "triplex.provenance": json.dumps(checkpoint.provenance),
    }


def _manifest(
    stage: Path,
    checkpoint: Checkpoint,
    checkpoint_path: Path,
    entries: tuple[GraphEntry, ...],
    report: ParityReport,
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        config=checkpoint.config.to_dict(),
        genes=checkpoint.genes,
        tile_px=TILE_PX,
        tile_mpp=checkpoint.tile_mpp,
        neighborhood=NEIGHBORHOOD,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        label_transform=checkpoint.label_transform,
        precision=report.precision,
        graphs=entries,
        files={name: sha256_of(stage / name) for name in (PARITY, PARITY_INPUTS, MODEL_CARD)},
        parity_passed=report.passed,
        provenance=_provenance(checkpoint, checkpoint_path),
    )


def _provenance(checkpoint: Checkpoint, checkpoint_path: Path) -> dict[str, Any]:
    return {
        **checkpoint.provenance,
        "tile_encoder": checkpoint.tile_encoder.facts(),
        "checkpoint": checkpoint_path.name,
        "checkpoint_sha256": sha256_of(checkpoint_path),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_with": {"triplex-deploy": __version__, "torch": str(torch.__version__)},
    }


@contextmanager
def _sessions(
    stage: Path, entries: tuple[GraphEntry, ...], specs: Mapping[str, GraphSpec]
) -> Iterator[dict[str, Session]]:
    """The runtime that will serve the bundle, on the CPU."""
    with ExitStack() as stack:
        yield {
            entry.name: stack.enter_context(open_ort_session(stage / entry.file, specs[entry.name]))
            for entry in entries
        }


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is gone afterwards unless it was moved into place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); choose another --out") from error
    try:
        stage.chmod(0o755)
        yield stage
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(stage: Path, target: Path) -> None:
    """Move the finished bundle into place; a replaced one is removed only after the move."""
    if not target.exists():
        stage.rename(target)
        return
    old = target.with_name(f"{stage.name}.old")
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
