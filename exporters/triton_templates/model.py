"""``triplex`` in Triton: a slide's tiles and where they lie in, expression out.

Every tile is encoded once, the global encoder runs once for the slide, spots are fused in batches.
What the model sees and how large its tensors are is read from ``bundle.json`` beside this file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

CENTER = 12
"""The spot's own tile among the 25 of its neighbourhood."""


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what the graphs take and give; no graph can be asked before all are loaded."""
        folder = Path(args["model_repository"]) / args["model_version"]
        bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.graphs: dict[str, dict[str, list[str]]] = bundle["graphs"]
        self.batch: int = bundle["batch"]
        side, rgb = bundle["masked_tile"]["side_px"], bundle["masked_tile"]["rgb"]
        self.masked_tile = np.broadcast_to(np.array(rgb, np.uint8), (1, side, side, 3))
        self.masked_feature: np.ndarray | None = None

    def execute(
        self, requests: list["pb_utils.InferenceRequest"]
    ) -> list["pb_utils.InferenceResponse"]:
        """One slide per request; a request that fails does not fail the others."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        try:
            given = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("tiles", "neighbor_tile", "apeg_index")
            }
            check(given)
            expression = self._predict(**given)
        except (ValueError, pb_utils.TritonModelException) as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("expression", expression)])

    def _predict(
        self, tiles: np.ndarray, neighbor_tile: np.ndarray, apeg_index: np.ndarray
    ) -> np.ndarray:
        own = neighbor_tile[:, CENTER]
        known: dict[str, np.ndarray] = {"mask": neighbor_tile >= 0}
        if "tile_encoder" in self.graphs:
            features = self._in_batches("tile_encoder", {"tiles": tiles})
        if "target_encoder" in self.graphs:
            used, rows = np.unique(own, return_inverse=True)
            tokens = self._in_batches("target_encoder", {"tiles": tiles[used]})
            known["target_tokens"] = tokens[rows]
        if "global_encoder" in self.graphs:
            inputs = {"features": features[own], "apeg_index": apeg_index}
            known["global_tokens"] = self._call("global_encoder", inputs)
        if "neighbor_encoder" in self.graphs:
            padded = np.vstack([features, self._masked_feature()])  # -1 is the last row
            around = {"features": padded[neighbor_tile], "mask": known["mask"]}
            known["neighbor_tokens"] = self._in_batches("neighbor_encoder", around)
        return self._in_batches("fusion_head", known)

    def _masked_feature(self) -> np.ndarray:
        """Return the feature (1, F) that stands for a masked neighbor, encoded once."""
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


def check(given: dict[str, np.ndarray]) -> None:
    """Refuse indices that point at no tile or no spot before they select the wrong row."""
    tiles, spots = len(given["tiles"]), len(given["neighbor_tile"])
    around, table = given["neighbor_tile"], given["apeg_index"]
    if not tiles or not spots or len(table) != spots:
        raise ValueError(f"triplex: {tiles} tiles, {spots} spots, {len(table)} rows of apeg_index")
    if around.min() < -1 or around.max() >= tiles or around[:, CENTER].min() < 0:
        raise ValueError(f"triplex: neighbor_tile must be -1 to {tiles - 1}, its centre at least 0")
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
    for begin in range(0, length, most):
        yield slice(begin, begin + most)
