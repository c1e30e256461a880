"""Write a Triton model repository from a bundle.

Each graph becomes a model, and the model ``triplex`` calls them in order. The repository follows
the documentation of Triton's model configuration and Python backend. A server has run it on a CPU
(``tests/exporters/test_real_triton.py``), and none on a GPU.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import N_NEIGHBORS, TILE_PX, Config, GraphSpec, ModelConfig, TensorSpec
from triplex_deploy.errors import BundleError, ConfigError, OutputError
from triplex_deploy.files.ours import exists
from triplex_deploy.runtime.tensorrt.profiles import DEFAULT_PROFILES
from triplex_deploy.tiles.masked_neighbor import MEAN_COLOR

MODEL: Final = "triplex"
"""Name of the model that calls the graphs."""
QUEUE_DELAY_US: Final = 2000
"""Longest time for which Triton collects requests into a batch, in microseconds."""
CHAINS: Final = 2
"""Instances of the chain, so that two slides are in progress at once."""
MESSAGE_BYTES: Final = 2**31
"""Size of the largest gRPC message."""
SHARED_BYTES_PER_BYTE: Final = 1.55
"""Shared memory per byte of a slide's tensors: 2 GiB of a server were full at 9,400 tiles."""
_TYPES: Final = {
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
    "int64": "TYPE_INT64",
    "float32": "TYPE_FP32",
}


def write_repository(bundle: Bundle, out: Path, plans: Path | None = None) -> None:
    """Write a repository.

    Args:
        bundle: The bundle. Without ``plans``, its graphs for ONNX Runtime are used.
        out: Folder of the repository, which must not exist.
        plans: Folder of the files ``<graph>.plan``, built by the TensorRT of the server.

    Raises:
        OutputError: ``out`` exists or cannot be written.
        BundleError: A plan is missing.
        ConfigError: The model is not TRIPLEX or a part of it.
    """
    require_served(bundle.config)
    if exists(out):
        raise OutputError(f"{out}: exists already; move it away")
    try:
        for name, spec in bundle.specs.items():
            _write_graph(bundle, name, spec, out, plans)
        _write_chain(bundle, out)
        templates = files("triplex_deploy.exporters.triton_templates")
        (out / "client.py").write_text((templates / "client.py").read_text(encoding="utf-8"))
        (out / "README.md").write_text(_readme(bundle, plans is not None), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error}); choose another --out") from error


def require_served(config: Config) -> ModelConfig:
    """Return the configuration of a model, or of an ensemble's members, that can be served.

    Raises:
        ConfigError: The model is not TRIPLEX or a part of it.
    """
    base = config.base
    if not (base.supports_triton and isinstance(base, ModelConfig)):
        raise ConfigError(
            f"format triton: serves TRIPLEX and its parts only, not {base.model}; "
            "use `triplex-deploy predict`"
        )
    return base


def _write_graph(bundle: Bundle, name: str, spec: GraphSpec, out: Path, plans: Path | None) -> None:
    version = out / name / "1"
    version.mkdir(parents=True)
    if plans is None:
        source, target = bundle.path / bundle.entry(name, "onnxruntime").file, "model.onnx"
    else:
        source, target = plans / f"{name}.plan", "model.plan"
        if not source.is_file():
            raise BundleError(f"{source}: missing; run `predict --backend tensorrt` once")
    shutil.copyfile(source, version / target)
    backend = "onnxruntime" if plans is None else "tensorrt"
    (out / name / "config.pbtxt").write_text(graph_config(spec, backend), encoding="utf-8")


def _write_chain(bundle: Bundle, out: Path) -> None:
    version = out / MODEL / "1"
    version.mkdir(parents=True)
    source = files("triplex_deploy.exporters.triton_templates") / "model.py"
    (version / "model.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    content = {
        "bundle_id": bundle.id,
        "genes": bundle.manifest.genes,
        "tile_mpp": bundle.manifest.tile_mpp,
        "neighborhood": bundle.config.neighbors.kind,
        "neighborhood_stride": bundle.config.neighbors.stride,
        "members": bundle.config.n_members,
        "batch": DEFAULT_PROFILES["batch"].opt,
        "masked_tile": {"side_px": TILE_PX, "rgb": MEAN_COLOR},
        "graphs": {
            name: {
                "inputs": [tensor.name for tensor in spec.inputs],
                "outputs": [tensor.name for tensor in spec.outputs],
            }
            for name, spec in bundle.specs.items()
        },
    }
    (version / "bundle.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / MODEL / "config.pbtxt").write_text(chain_config(bundle), encoding="utf-8")


def graph_config(spec: GraphSpec, backend: str) -> str:
    """Return the ``config.pbtxt`` of a graph.

    Triton may combine requests into batches, except for graphs in which the rows depend on each
    other.
    """
    is_batched = spec.kind != "per slide"
    lines = [
        f'name: "{spec.name}"',
        f'backend: "{backend}"',
        f"max_batch_size: {DEFAULT_PROFILES['batch'].max if is_batched else 0}",
        *_tensors("input", spec.inputs, is_batched),
        *_tensors("output", spec.outputs, is_batched),
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
    ]
    if is_batched:
        typical = DEFAULT_PROFILES["batch"].opt
        lines.append(
            f"dynamic_batching {{ preferred_batch_size: [ {typical} ] "
            f"max_queue_delay_microseconds: {QUEUE_DELAY_US} }}"
        )
    return "\n".join(lines) + "\n"


def chain_config(bundle: Bundle) -> str:
    """Return the ``config.pbtxt`` of the model that predicts expression from tiles of a slide."""
    config = require_served(bundle.config)
    inputs = (
        TensorSpec("tiles", "uint8", ("tiles", TILE_PX, TILE_PX, 3)),
        TensorSpec("neighbor_tile", "int64", ("spots", N_NEIGHBORS)),
        TensorSpec("apeg_index", "int64", ("spots", config.apeg_kernel**2)),
    )
    expression = TensorSpec("expression", "float32", ("spots", config.n_genes))
    spread = TensorSpec("std", "float32", ("spots", config.n_genes))
    outputs = (expression,) if bundle.config.n_members == 1 else (expression, spread)
    lines = [
        f'name: "{MODEL}"',
        'backend: "python"',
        "max_batch_size: 0",
        *_tensors("input", inputs, is_batched=False),
        *_tensors("output", outputs, is_batched=False),
        f"instance_group [ {{ kind: KIND_CPU count: {CHAINS} }} ]",
    ]
    return "\n".join(lines) + "\n"


def shared_memory_gb(bundle: Bundle) -> int:
    """Return the GiB of shared memory that the server's container needs.

    Each instance of the chain may hold a message of the largest size, with as many spots as tiles,
    and exchanges the tensors of a call with the graphs through shared memory.
    """
    config = require_served(bundle.config)
    tile_bytes = TILE_PX * TILE_PX * 3
    of_spot = 8 * (N_NEIGHBORS + config.apeg_kernel**2)
    of_members = bundle.config.n_members * (config.embedding_dim + config.n_genes)
    of_call = 4 * (config.feature_dim + of_members)
    n_tiles = MESSAGE_BYTES // (tile_bytes + of_spot)
    each = n_tiles * (tile_bytes + of_spot + of_call) * SHARED_BYTES_PER_BYTE
    return math.ceil(CHAINS * each / 2**30)


def _tensors(kind: str, tensors: tuple[TensorSpec, ...], is_batched: bool) -> Iterator[str]:
    for tensor in tensors:
        axes = tensor.axes[1:] if is_batched else tensor.axes
        dims = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in axes)
        yield (
            f'{kind} [ {{ name: "{tensor.name}" data_type: {_TYPES[tensor.dtype]} '
            f"dims: [ {dims} ] }} ]"
        )


def _readme(bundle: Bundle, has_plans: bool) -> str:
    what = "TensorRT plans, which only the TensorRT that built them loads" if has_plans else "ONNX"
    summary: Mapping[str, object] = {
        "Bundle": bundle.id,
        "Genes": len(bundle.manifest.genes),
        "Tiles": f"{TILE_PX} px at {bundle.manifest.tile_mpp:g} um/px",
        "Neighbor tiles": f"{bundle.config.neighbors}; `client.py` takes them so",
        "Graphs": f"{', '.join(bundle.specs)} ({what})",
    }
    return "\n".join(
        [
            "# Triton model repository for TRIPLEX",
            "",
            *(f"- **{name}**: {value}" for name, value in summary.items()),
            "",
            "Start the server with this folder as its repository:",
            "",
            "    docker run --gpus all --rm -p 8000:8000 -p 8001:8001 -p 8002:8002 \\",
            f"      --shm-size {shared_memory_gb(bundle)}g -v $PWD:/models:ro \\",
            "      nvcr.io/nvidia/tritonserver:YY.MM-py3 tritonserver --model-repository /models",
            "",
            "Use a release with an ONNX Runtime that reads opset 20. For plans, use a release with",
            "the TensorRT that built them. The Python backend needs NumPy inside the container.",
            "",
            "Predict a slide from a machine that has the slide and triplex-deploy:",
            "",
            "    pip install 'triplex-deploy[cpu]' 'tritonclient[grpc]'",
            "    python client.py SLIDE --bundle BUNDLE --url HOST:8001 --out expression.npy",
            "",
            f"The model `{MODEL}` takes every tile of a slide once and encodes it once, runs the",
            "global encoder once for the slide and fuses spots in batches. One gRPC message holds",
            "2 GB, about 14,000 tiles; `--shm-size` is for two such slides at once. Clients can",
            "also call each graph; Triton combines the requests of several clients into batches.",
            "With NumPy 2 in the container, use Triton 24.12 or newer: the model refuses older,",
            "which spoil its tensors.",
            "",
            "A repository like this was loaded by Triton 24.10 on a CPU and predicted what",
            "`triplex-deploy predict` does. A Python model with ONNX Runtime served each graph.",
            "No server with a GPU, or with the backend of ONNX Runtime or TensorRT, has loaded",
            "one.",
            "",
        ]
    )
