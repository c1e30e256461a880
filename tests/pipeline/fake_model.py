"""A fake model of any configuration with graphs of a few lines of NumPy, for fast tests.

Every graph depends on all of its inputs: each neighbor, masked or not where its token is
averaged, each spot of the slide, each entry of the position table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import GraphEntry, Manifest, tensor_entries
from triplex_deploy.contract import (
    IMAGE_MEAN,
    IMAGE_STD,
    Config,
    GraphSpec,
    ModelConfig,
    graph_specs,
)
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.session import Arrays, Session

TILE_MPP = 0.5


def fake_config(**options: Any) -> ModelConfig:
    """A small configuration."""
    small = {"n_genes": 6, "feature_dim": 10, "embedding_dim": 8}
    heads = {f"{part}_heads": 2 for part in ("fusion", "global", "neighbor")}
    return ModelConfig(**(small | heads | {"target_projection": True} | options))


def fake_model(config: Config, delay_s: float = 0.0, weights: str = "frozen") -> Model:
    """An opened model; every call of an encoder of tiles lasts ``delay_s``.

    ``weights`` stands for the weights of the tile encoder: models with others share no cache.
    """
    specs = graph_specs(config)
    sessions = {name: FakeSession(spec, delay_s) for name, spec in specs.items()}
    bundle = RunnableBundle(Path("fake-bundle"), _manifest(config, weights), config)
    return Model(bundle, sessions, CPU, "fake", ExitStack())


class FakeSession(Session):
    """One graph; ``calls`` are the lengths of what it was given.

    After ``fail_at`` calls it raises, at the monotonic time ``failed_s``.
    """

    def __init__(self, spec: GraphSpec, delay_s: float) -> None:
        super().__init__(spec)
        self.calls: list[int] = []
        self.fail_at: int | None = None
        self.failed_s = 0.0
        self._delay_s = delay_s

    def _run(self, inputs: Tensors) -> Arrays:
        arrays = {name: np.asarray(values) for name, values in inputs.items()}
        self.calls.append(len(next(iter(inputs.values()))))
        if self.fail_at is not None and len(self.calls) > self.fail_at:
            self.failed_s = time.monotonic()
            raise RuntimeError("the graph broke")
        if "tiles" in inputs:
            time.sleep(self._delay_s)
        (output,) = self.spec.outputs
        tokens = _GRAPHS[self.spec.name](arrays, output.axes)
        return {output.name: tokens.astype(np.float32)}

    def close(self) -> None:
        pass


def _weights(rows: int, columns: int) -> NDArray[np.float64]:
    return np.random.default_rng(rows * 1000 + columns).standard_normal((rows, columns))


def _quadrants(tiles: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colors (B, 12) of the four quadrants."""
    quarters = tiles.reshape(len(tiles), 2, 112, 2, 112, 3).mean(axis=(2, 4)) / 255
    return quarters.reshape(len(tiles), 12)


def _encode_tile(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    return np.tanh(_quadrants(inputs["tiles"]) @ _weights(12, axes[1]))


def _encode_target(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    tokens = _quadrants(inputs["tiles"]) @ _weights(12, axes[1] * axes[2])
    return np.sin(tokens).reshape(len(tokens), axes[1], axes[2])


def _encode_neighbors(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    features, mask = inputs["features"], inputs["mask"]
    tokens = np.tanh(features @ _weights(features.shape[2], axes[2]))
    tokens = tokens + (tokens * mask[..., None]).mean(axis=1, keepdims=True)
    return tokens.mean(axis=1, keepdims=True) if axes[1] == 1 else tokens


def _encode_spots(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    if "grid_xy" in inputs:
        return _encode_all_spots(inputs)
    features, table = inputs["features"], inputs["apeg_index"]
    tokens = features @ _weights(features.shape[1], axes[1])
    around = np.where(table[..., None] >= 0, tokens[table], 0)  # (N, k * k, D)
    offsets = np.arange(1, table.shape[1] + 1) / 10
    return tokens + np.einsum("nkd,k->nd", around, offsets) + tokens.mean(axis=0)


def _encode_all_spots(inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Add to each spot its position and, if the graph takes a table, its nearest spots."""
    tokens = inputs["target_tokens"][:, 0]
    placed = tokens + np.sin(inputs["grid_xy"] @ _weights(2, tokens.shape[1]))
    near = inputs.get("adjacency", np.zeros((len(tokens), 0), np.int64))
    around = np.where(near[..., None] >= 0, placed[near], 0).sum(axis=1)
    return placed + placed.mean(axis=0) + around / 10


def _look_up(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    features = inputs["features"]
    rows = np.tanh(features @ _weights(features.shape[1], axes[1] * axes[2]))
    return rows.reshape(len(features), axes[1], axes[2])


def _fuse(inputs: Mapping[str, NDArray[Any]], axes: tuple[Any, ...]) -> NDArray[Any]:
    total = 0.0
    for name, tokens in inputs.items():
        if name == "mask":
            continue
        if name == "neighbor_tokens" and "mask" in inputs:
            weight = inputs["mask"][..., None]
            tokens = (tokens * weight).sum(axis=1) / weight.sum(axis=1)
        elif tokens.ndim == 3:
            tokens = (tokens * np.arange(1, tokens.shape[1] + 1)[:, None]).mean(axis=1)
        total = total + np.tanh(tokens) @ _weights(tokens.shape[1], axes[1])
    return np.asarray(total)


_GRAPHS = {
    "tile_encoder": _encode_tile,
    "target_encoder": _encode_target,
    "neighbor_encoder": _encode_neighbors,
    "global_encoder": _encode_spots,
    "retrieval": _look_up,
    "fusion_head": _fuse,
}


def _manifest(config: Config, weights: str) -> Manifest:
    entries = []
    for name, spec in graph_specs(config).items():
        inputs, outputs = tensor_entries(spec)
        entries.append(
            GraphEntry(
                name=name,
                file=f"{name}.onnx",
                sha256="0" * 64,
                precision="fp32",
                opset=20,
                target="onnxruntime",
                inputs=inputs,
                outputs=outputs,
                graph_sha256=weights,
            )
        )
    return Manifest(
        schema_version=1,
        config=config.to_dict(),
        genes=tuple(f"gene{i}" for i in range(config.n_genes)),
        tile_px=224,
        tile_mpp=TILE_MPP,
        neighborhood=5,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        label_transform={},
        precision="fp32",
        graphs=tuple(entries),
        files={},
        parity_passed=True,
        provenance={},
    )
