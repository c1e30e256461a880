"""Describe exported graphs and their bundle: properties of ONNX files, entries, the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto

from triplex_deploy.bundle import (
    MODEL_CARD,
    PARITY,
    PARITY_INPUTS,
    SCHEMA_VERSION,
    GraphEntry,
    Manifest,
    Target,
    parity_file,
    tensor_entries,
)
from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, NEIGHBORHOOD, TILE_PX, GraphSpec
from triplex_deploy.exporters.parity import ParityReport
from triplex_deploy.familiarity import FAMILIARITY
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.models import Checkpoint
from triplex_deploy.reliability import RELIABILITY
from triplex_deploy.runtime.tensorrt.build import SETTINGS
from triplex_deploy.version import __version__


def onnx_properties(checkpoint: Checkpoint, spec: GraphSpec) -> dict[str, str]:
    """Return the properties of an ONNX file, which describe it if it is found without a bundle."""
    return {
        "triplex.graph": spec.name,
        "triplex.config": json.dumps(checkpoint.config.to_dict()),
        "triplex.genes": json.dumps(checkpoint.genes),
        "triplex.label_transform": json.dumps(checkpoint.label_transform),
        "triplex.tile": json.dumps({"px": TILE_PX, "mpp": checkpoint.tile_mpp}),
        "triplex.normalisation": json.dumps({"mean": IMAGE_MEAN, "std": IMAGE_STD}),
        "triplex.provenance": json.dumps(checkpoint.provenance),
    }


def graph_entry(
    folder: Path, path: Path, spec: GraphSpec, precision: str, target: Target
) -> GraphEntry:
    """Return the entry of an ONNX file in the manifest.

    Args:
        folder: Folder of the bundle.
        path: The file, in this folder.
        spec: The graph that the file holds.
        precision: Precision of the file.
        target: The runtime that the file is for.
    """
    model = onnx.load(path)
    inputs, outputs = tensor_entries(spec)
    return GraphEntry(
        name=spec.name,
        file=path.relative_to(folder).as_posix(),
        sha256=sha256_of(path),
        precision=precision,
        opset=_opset(model),
        target=target,
        inputs=inputs,
        outputs=outputs,
        graph_sha256=graph_digest(model),
    )


def graph_digest(model: ModelProto) -> str:
    """Return the SHA-256 of an ONNX model without its properties; changes ``model``.

    The properties tell which bundle a file belongs to. The files of the same frozen tile encoder in
    two bundles differ in nothing else, so the bundles can share its features.
    """
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def make_manifest(
    folder: Path,
    checkpoint: Checkpoint,
    files: Mapping[str, Path],
    entries: tuple[GraphEntry, ...],
    report: ParityReport,
    passed: bool,
) -> Manifest:
    """Return the manifest of a bundle, not yet sealed.

    Args:
        folder: Folder of the bundle, with all its other files.
        checkpoint: The exported checkpoint.
        files: The checkpoint's file, or the files of all members of an ensemble, by name.
        entries: The graphs for all runtimes.
        report: The comparison of the graphs for ONNX Runtime with PyTorch.
        passed: True if the graphs of every runtime passed their gates.
    """
    tensorrt = parity_file("tensorrt")
    checked = (
        PARITY,
        PARITY_INPUTS,
        MODEL_CARD,
        FAMILIARITY,
        RELIABILITY,
        SETTINGS,
        tensorrt,
    )
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
        files={name: sha256_of(folder / name) for name in checked if (folder / name).exists()},
        parity_passed=passed,
        provenance=_provenance(checkpoint, files, report),
        calibrated=checkpoint.calibration is not None,
    )


def _provenance(
    checkpoint: Checkpoint, files: Mapping[str, Path], report: ParityReport
) -> dict[str, Any]:
    digests = {name: sha256_of(path) for name, path in files.items()}
    origin: dict[str, Any] = {"checkpoints": digests}
    if len(digests) == 1:
        ((name, digest),) = digests.items()
        origin = {"checkpoint": name, "checkpoint_sha256": digest}
    made = {name: graph.to_dict() for name, graph in report.quantization.items()}
    return {
        **checkpoint.provenance,
        "tile_encoder": checkpoint.tile_encoder.metadata(),
        **origin,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_with": {"triplex-deploy": __version__, "torch": str(torch.__version__)},
        **({"quantization": made} if made else {}),
    }


def _opset(model: ModelProto) -> int:
    """Return the version of the standard operators of ONNX."""
    return next(
        int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")
    )
