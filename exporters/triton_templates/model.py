"""The model ``triplex`` in Triton: predicts expression from the tiles of a slide.

Every tile is encoded once, the global encoder runs once for the slide, and spots are fused in
batches. ``bundle.json`` beside this file lists the graphs with their inputs and outputs.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

NUMPY_2_SINCE = (24, 12)
"""The first release of Triton whose Python backend works with NumPy 2."""
CENTER = 12
"""Index of the target tile among the 25 tiles of a neighborhood."""


class TritonPythonModel:
    """The class that Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read ``bundle.json``. Graphs cannot be called here: Triton may not have loaded them."""
        require_numpy()
        folder = Path(args["model_repository"]) / args["model_version"]
        bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.graphs: dict[str, dict[str, list[str]]] = bundle["graphs"]
        self.batch: int = bundle["batch"]
        self.members: int = bundle["members"]
        side, rgb = bundle["masked_tile"]["side_px"], bundle["masked_tile"]["rgb"]
        self.masked_tile = np.broadcast_to(np.array(rgb, np.uint8), (1, side, side, 3))
        self.masked_feature: np.ndarray | None = None

    def execute(
        self, requests: list["pb_utils.InferenceRequest"]
    ) -> list["pb_utils.InferenceResponse"]:
        """Return a response for each request, which is one slide; errors stay within a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        try:
            given = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("tiles", "neighbor_tile", "apeg_index")
            }
            check(given)
            outputs = by_name(self._predict(**given), self.members)
        except (ValueError, pb_utils.TritonModelException) as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        )

    def _predict(
        self, tiles: np.ndarray, neighbor_tile: np.ndarray, apeg_index: np.ndarray
    ) -> np.ndarray:
        target = neighbor_tile[:, CENTER]
        known: dict[str, np.ndarray] = {"mask": neighbor_tile >= 0}
        if "tile_encoder" in self.graphs:
            features = self._in_batches("tile_encoder", {"tiles": tiles})
        if "target_encoder" in self.graphs:
            used, rows = np.unique(target, return_inverse=True)
            tokens = self._in_batches("target_encoder", {"tiles": tiles[used]})
            known["target_tokens"] = tokens[rows]
        if "global_encoder" in self.graphs:
            inputs = {"features": features[target], "apeg_index": apeg_index}
            known["global_tokens"] = self._call("global_encoder", inputs)
        if "neighbor_encoder" in self.graphs:
            padded = np.vstack([features, self._masked_feature()])  # index -1 is the last row
            around = {"features": padded[neighbor_tile], "mask": known["mask"]}
            known["neighbor_tokens"] = self._in_batches("neighbor_encoder", around)
        return self._in_batches("fusion_head", known)

    def _masked_feature(self) -> np.ndarray:
        """Return the feature (1, F) of a masked neighbor; it is encoded once."""
        if self.masked_feature is None:
            self.masked_feature = self._call("tile_encoder", {"tiles": self.masked_tile})
        return self.masked_feature

    def _in_batches(self, graph: str, known: dict[str, np.ndarray]) -> np.ndarray:
        names = self.graphs[graph]["inputs"]
        length = len(known[names[0]])
        return np.concatenate(
            [
                self._call(graph, {name: known[name][rows] for name in names})
                for rows in batches(length, self.batch)
            ]
        )

    def _call(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        (output,) = self.graphs[graph]["outputs"]
        request = pb_utils.InferenceRequest(
            model_name=graph,
            requested_output_names=[output],
            inputs=[
                pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()
            ],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise pb_utils.TritonModelException(f"{graph}: {response.error().message()}")
        array: np.ndarray = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
        require_finite(graph, output, array)
        return array


def require_numpy() -> None:
    """Refuse a server whose Python backend hands on wrong numbers with this NumPy.

    The backend of releases before 24.12 was built for NumPy 1: with NumPy 2 every tensor arrives
    with other values, and nothing says so. A tensor that passes through DLPack shows it.
    """
    release = os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "")
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    is_numpy_2 = int(np.__version__.partition(".")[0]) >= 2
    given = np.array([[1, 2], [3, 250]], np.uint8)
    passed_on = pb_utils.Tensor.from_dlpack("check", pb_utils.Tensor("check", given).to_dlpack())
    is_same = np.array_equal(passed_on.as_numpy(), given)
    if not is_same or (is_numpy_2 and len(numbers) == 2 and numbers < NUMPY_2_SINCE):
        raise pb_utils.TritonModelException(
            f"triplex: Triton {release or 'of this container'} does not work with NumPy "
            f"{np.__version__}; use Triton 24.12 or newer, or install 'numpy<2' in the container"
        )


def by_name(expression: np.ndarray, members: int) -> dict[str, np.ndarray]:
    """Return the outputs of the model: of an ensemble (N, members * G), the mean and the spread."""
    if members == 1:
        return {"expression": expression}
    each = expression.reshape(len(expression), members, -1).astype(np.float64)
    mean, spread = each.mean(axis=1), each.std(axis=1, ddof=1)
    return {"expression": mean.astype(np.float32), "std": spread.astype(np.float32)}


def check(given: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` for indices of tiles or spots that do not exist."""
    tiles, spots = len(given["tiles"]), len(given["neighbor_tile"])
    around, table = given["neighbor_tile"], given["apeg_index"]
    if not tiles or not spots or len(table) != spots:
        raise ValueError(f"triplex: {tiles} tiles, {spots} spots, {len(table)} rows of apeg_index")
    if around.min() < -1 or around.max() >= tiles or around[:, CENTER].min() < 0:
        raise ValueError(f"triplex: neighbor_tile must be -1 to {tiles - 1}, its center at least 0")
    if table.min() < -1 or table.max() >= spots:
        raise ValueError(f"triplex: apeg_index must be -1 to {spots - 1}")


def require_finite(graph: str, output: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity of any graph: a later graph may turn them into numbers."""
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise ValueError(
            f"{graph}: its output {output} has {wrong} values that are NaN or infinite"
        )


def batches(length: int, most: int) -> Iterator[slice]:
    """Yield slices of at most ``most`` rows that cover ``length`` rows."""
    for begin in range(0, length, most):
        yield slice(begin, begin + most)
