"""Describe an exported ONNX file for a bundle's manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import ModelProto

from triplex_deploy.bundle import GraphEntry, Target, tensor_entries
from triplex_deploy.contract import GraphSpec
from triplex_deploy.files.digest import sha256_of


def graph_entry(
    folder: Path, path: Path, spec: GraphSpec, precision: str, target: Target
) -> GraphEntry:
    """Return the manifest's entry for one ONNX file.

    Args:
        folder: The bundle's folder.
        path: The file, in this folder.
        spec: The graph that the file holds.
        precision: The precision of the file.
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

    The properties note which bundle a file belongs to. The files of one frozen
    tile encoder in two bundles differ in nothing else, so that their features can be shared.
    """
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operators."""
    return next(
        int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")
    )
